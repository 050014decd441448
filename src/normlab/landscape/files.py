"""A landscape as files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from normlab.atomic import write_atomically
from normlab.errors import DataError
from normlab.landscape import figures

if TYPE_CHECKING:
    from normlab.landscape.result import LandscapeReport


def write_all(report: LandscapeReport, directory: Path) -> list[Path]:
    """Write landscape.json, and a figure for each part that was measured.

    Raises:
        DataError: the directory cannot be made, or not be written.
    """
    texts = {"landscape.json": json.dumps(report.as_json(), allow_nan=False, ensure_ascii=False, indent=1)}
    texts |= {f"{name}.svg": text for name, text in figures.draw(report).items()}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_atomically(directory / name, text)
    except OSError as error:
        raise DataError(f"{directory} cannot be written: {error.strerror}; choose another with --out") from None
    return [directory / name for name in texts]
