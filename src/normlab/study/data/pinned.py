"""Datasets of the hub at a fixed revision, or from local copies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from normlab.errors import DataError
from normlab.study.data.base import Dataset
from normlab.study.data.build import Format, fill
from normlab.study.data.cache import Shelf, cached
from normlab.study.data.decode import Fit
from normlab.study.data.images import as_dataset
from normlab.study.data.parts import check_share
from normlab.study.data.places import DATA_DIR, data_dir
from normlab.study.data.sources import (
    Table,
    chain_files,
    hub_revision,
    hub_tables,
    parquet_files,
    parquet_tables,
    signature,
)

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Pinned:
    """A dataset on the hub.

    Attributes:
        name: ours, and that of the folder with local copies.
        repository: on the hub.
        revision: the commit there; or a branch, whose commit is then looked up when it is decoded.
        form: how to read it.
    """

    name: str
    repository: str
    revision: str
    form: Format

    def resized(self, resize: int, fit: Fit) -> Pinned:
        """The same with images that are squares of `resize` pixels."""
        form = replace(self.form, resize=resize, fit=fit)
        form.check(self.name)
        return replace(self, form=form)

    def load(self, validation: float, rng: np.random.Generator) -> Dataset:
        """Decode it once, from the data directory where it is there, else from the hub; split it."""
        check_share(validation)
        files = local_parquet(self.name)
        options = [self.form.resize, self.form.fit]
        if files is None:
            entry = cached(self.name, [self.repository, self.revision, *options], self._from_hub)
        else:
            local = files

            def from_files(shelf: Shelf) -> Mapping[str, str]:
                return self._decode(shelf, parquet_tables(local), f"{self.name}, local copy")

            entry = cached(self.name, [signature(chain_files(files)), *options], from_files)
        return as_dataset(entry, validation, rng)

    def _from_hub(self, shelf: Shelf) -> Mapping[str, str]:
        where = alternatives(self.name)
        revision = hub_revision(self.repository, self.revision, alternatives=where)
        tables = hub_tables(
            self.repository, revision, config=None, splits={split: split for split in SPLITS}, alternatives=where
        )
        return self._decode(shelf, tables, self.repository) | {"data_revision": revision}

    def _decode(self, shelf: Shelf, tables: Mapping[str, Table], source: str) -> dict[str, str]:
        classes = fill(shelf, tables, self.form, self.name)
        return {"data": source, "classes": str(classes)}


def local_folder(name: str) -> Path | None:
    """The folder of a local copy, where there is one.

    Raises:
        DataError: the data directory itself does not exist.
    """
    base = data_dir()
    if base is None:
        return None
    if not base.is_dir():
        raise DataError(f"{base}, named by --data-dir or {DATA_DIR}, is no folder")
    return base / name if (base / name).is_dir() else None


def local_parquet(name: str) -> dict[str, list[Path]] | None:
    """The parquet files of a local copy, by split; None where there is none.

    Raises:
        DataError: the folder is there, but a split is not in it.
    """
    folder = local_folder(name)
    return None if folder is None else parquet_files(folder, {split: split for split in SPLITS})


def alternatives(name: str) -> str:
    """Where else a dataset may be taken from, for messages."""
    base = data_dir()
    looked = f" (not in {base})" if base is not None else ""
    return (
        f"put its parquet files into DIR/{name}{looked} and say --data-dir DIR or {DATA_DIR}=DIR, use "
        'parquet(path="...") or folder(path="..."), or "digits", which needs no files'
    )
