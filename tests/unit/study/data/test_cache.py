import errno
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from normlab.errors import DataError
from normlab.study.data import cache
from normlab.study.data.cache import cached
from normlab.study.data.places import cache_dir

FILL = """
import sys, time
from pathlib import Path
import numpy as np
from normlab.study.data.cache import cached

def fill(shelf):
    with Path(sys.argv[1]).open("a") as file:
        file.write("filled\\n")
    images = shelf.array("images", (50, 3, 4, 4), np.uint8)
    for k in range(50):
        images[k] = k
        time.sleep(float(sys.argv[2]))
    return {"data": "numbers"}

print(cached("numbers", [1], fill).facts["data_checksum"])
"""


def filled(shelf):
    shelf.array("images", (50, 3, 4, 4), np.uint8)[:] = np.arange(50).reshape(-1, 1, 1, 1)
    return {"data": "numbers"}


def never(shelf):
    raise AssertionError("it was there")


def entries():
    return sorted(path for path in (cache_dir() / "data").iterdir() if not path.name.startswith("."))


def start(log, pause="0.001"):
    return subprocess.Popen([sys.executable, "-c", FILL, str(log), pause], stdout=subprocess.PIPE, text=True)


def test_what_was_decoded_is_not_decoded_again_and_lies_in_a_memory_map():
    first, second = cached("numbers", [1], filled), cached("numbers", [1], never)
    assert isinstance(second.arrays["images"], np.memmap)
    np.testing.assert_array_equal(second.arrays["images"][:, 0, 0, 0], np.arange(50))
    assert first.facts == second.facts
    other = cached("numbers", [2], filled)
    assert other.facts == first.facts
    assert len(entries()) == 2


def test_whoever_writes_into_the_images_does_not_write_into_the_cache():
    cached("numbers", [1], filled).arrays["images"][:] = 0
    assert cached("numbers", [1], never).arrays["images"].sum() > 0


@pytest.mark.parametrize("damage", ["a flipped bit", "cut off", "another header", "gone", "no checksums", "no json"])
def test_a_corrupt_cache_is_told_and_decoded_again(damage):
    right = cached("numbers", [1], filled)
    images, about = entries()[0] / "images.npy", entries()[0] / "about.json"
    content = bytearray(images.read_bytes())
    images.unlink()  # what is mapped stays as it was
    content[-7] ^= 4
    if damage != "gone":
        spoilt = {"cut off": content[:-9], "another header": content.replace(b"(50,", b"(49,")}
        images.write_bytes(spoilt.get(damage, content))
    if damage in ("no checksums", "no json"):
        about.write_text("{}" if damage == "no checksums" else "{", encoding="utf-8")
    with pytest.warns(UserWarning, match=r"cache .*numbers-\w+ is damaged \(.+\); decoding again"):
        again = cached("numbers", [1], filled)
    assert again.facts == right.facts
    np.testing.assert_array_equal(again.arrays["images"], right.arrays["images"])
    cached("numbers", [1], never)


def test_of_many_processes_that_start_at_once_one_decodes(tmp_path):
    processes = [start(tmp_path / "log") for _ in range(4)]
    sums = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert sums == {cached("numbers", [1], never).facts["data_checksum"]}
    assert (tmp_path / "log").read_text().splitlines() == ["filled"]


def test_a_process_killed_while_decoding_leaves_nothing_that_counts(tmp_path):
    process = start(tmp_path / "log", pause="1")
    deadline = time.monotonic() + 30
    while not (tmp_path / "log").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not entries()
    cached("numbers", [1], filled)
    assert len(entries()) == 1
    assert not list((cache_dir() / "data").glob(".numbers-*/"))  # what it had begun is gone too


def test_a_failure_while_decoding_leaves_nothing():
    def broken(shelf):
        shelf.array("images", (50, 3, 4, 4), np.uint8)
        raise DataError("image 3 cannot be decoded")

    with pytest.raises(DataError, match="image 3"):
        cached("numbers", [1], broken)
    assert not entries()
    cached("numbers", [1], filled)


def test_a_cache_that_cannot_be_written_is_told_with_the_way_out(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NORMLAB_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cache .*file/data: Not a directory; NORMLAB_CACHE_DIR can name a folder"):
        cached("numbers", [1], filled)


def test_a_disk_without_room_is_told_before_images_are_written(monkeypatch):
    def large(shelf):
        shelf.array("images", (1000, 3, 64, 64), np.uint8)
        raise AssertionError("there is no room for it")

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(DataError, match="File too large; NORMLAB_CACHE_DIR can name a folder elsewhere, with room"):
            cached("numbers", [1], large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not entries()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache.os, "posix_fallocate", full, raising=False)
    with pytest.raises(DataError, match="No space left on device"):
        cached("numbers", [1], filled)
    assert not entries()


@pytest.mark.parametrize(
    ("platform", "variables", "wanted"),
    [
        ("linux", {}, "home/.cache/normlab"),
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/normlab"),
        ("linux", {"XDG_CACHE_HOME": "x"}, "home/.cache/normlab"),  # the standard: relative paths are ignored
        ("darwin", {}, "home/Library/Caches/normlab"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/normlab/Cache"),
        ("linux", {"NORMLAB_CACHE_DIR": "/c"}, "/c"),
    ],
)
def test_caches_lie_where_the_platform_wants_them(platform, variables, wanted, tmp_path, monkeypatch):
    for name in ("XDG_CACHE_HOME", "NORMLAB_CACHE_DIR", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    assert cache_dir() == tmp_path / wanted


def test_an_array_of_no_bytes_is_told_and_made_anew():
    """What a power cut leaves."""
    cached("numbers", [1], filled)
    (entries()[0] / "images.npy").write_bytes(b"")
    with pytest.warns(UserWarning, match="is damaged .*; decoding again"):
        again = cached("numbers", [1], filled)
    np.testing.assert_array_equal(again.arrays["images"][:, 0, 0, 0], np.arange(50))
