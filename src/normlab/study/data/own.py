"""Data of one's own: the common part of `folder`, `parquet` and `hub`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from normlab.errors import DataError
from normlab.study.data.base import Dataset
from normlab.study.data.build import Format, fill
from normlab.study.data.cache import Shelf, cached
from normlab.study.data.images import as_dataset
from normlab.study.data.parts import check_share
from normlab.study.data.places import data_dir
from normlab.study.data.sources import Table


def own_dataset(
    name: str,
    key: Sequence[object],
    tables: Callable[[], tuple[Mapping[str, Table], Mapping[str, str]]],
    form: Format,
    validation: float,
    rng: np.random.Generator,
) -> Dataset:
    """Decode it once, and split it.

    Args:
        name: "folder", "parquet" or "hub", for messages and for the cache.
        key: what tells this data from other data.
        tables: gives the splits "train" and "test", and what is known about them; called where the cache has nothing.
    """
    check_share(validation)
    form.check(name)

    def filled(shelf: Shelf) -> dict[str, str]:
        found, facts = tables()
        return {**facts, "classes": str(fill(shelf, found, form, name))}

    options = [form.image, *form.labels, form.channels, form.resize, form.fit]
    return as_dataset(cached(name, [*key, *options], filled), validation, rng)


def own_path(text: str, name: str) -> Path:
    """A folder that a study names; where it is relative, below the data directory if there is one.

    Raises:
        DataError: there is no such folder.
    """
    path = (data_dir() or Path.cwd()) / Path(text).expanduser()
    if not path.is_dir():
        raise DataError(f'{name}(path="{text}"): {path} is no folder')
    return path
