"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from pathlib import Path


def write_atomically(path: Path, content: str | bytes, *, durable: bool = False) -> None:
    """Write a file so that readers see the old one or the new one, never a part.

    Args:
        durable: wait until it is on the disk, so that it outlives a loss of power.

    Raises:
        OSError: it cannot be written; or the path is empty, which pathlib takes for the current directory.
    """
    if not path.name:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    # two machines that share a disk may have processes of the same number
    partial = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        partial.replace(path)
        if durable:
            _sync_folder(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    """Else the file's new name may not outlive a loss of power. Windows cannot, and some file systems neither."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
