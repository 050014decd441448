"""Where data is looked for, and where what was decoded is kept."""

from __future__ import annotations

import os
import sys
from pathlib import Path

DATA_DIR, CACHE_DIR = "NORMLAB_DATA_DIR", "NORMLAB_CACHE_DIR"


def data_dir() -> Path | None:
    """The folder with local copies of datasets, one folder for each: `--data-dir`, or else NORMLAB_DATA_DIR."""
    named = os.environ.get(DATA_DIR)
    return Path(named).expanduser().absolute() if named else None


def cache_dir() -> Path:
    """NORMLAB_CACHE_DIR, or where the platform wants caches."""
    if named := os.environ.get(CACHE_DIR):
        return Path(named).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "normlab"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "normlab" / "Cache"
    named = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(named) if Path(named).is_absolute() else Path.home() / ".cache") / "normlab"
