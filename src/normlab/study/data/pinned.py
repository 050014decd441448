"""Datasets of the hub at a fixed revision, or from local copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from normlab.errors import DataError, SpecError
from normlab.study.data.base import Dataset
from normlab.study.data.build import Format, fill
from normlab.study.data.cache import Shelf, cached
from normlab.study.data.decode import Fit
from normlab.study.data.images import as_dataset
from normlab.study.data.parts import check_share
from normlab.study.data.places import DATA_DIR, data_dir
from normlab.study.data.sources import Table, hub_revision, hub_tables, parquet_tables

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
        if resize < 1:
            raise SpecError(f"{self.name}: resize={resize} should be 1 pixel or more")
        return replace(self, form=replace(self.form, resize=resize, fit=fit))

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


def parquet_files(folder: Path, starts: Mapping[str, str]) -> dict[str, list[Path]]:
    """Files of each split, in order: `train-00000-of-00005.parquet`, `train.parquet`, in the folder or below it.

    Args:
        starts: split → how the names of its files start.
    """
    found = {split: sorted(folder.rglob(f"{start}*.parquet")) for split, start in starts.items()}
    for split, files in found.items():
        if not files:
            raise DataError(f"{folder}: no {starts[split]}-*.parquet in it")
    return found


def chain_files(files: Mapping[str, Sequence[Path]]) -> list[Path]:
    """All files, split by split."""
    return [path for paths in files.values() for path in paths]


def signature(files: Sequence[Path]) -> list[tuple[str, int, int]]:
    """What tells these files from others without reading them: name, size and time of change."""
    return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]


def alternatives(name: str) -> str:
    """Where else a dataset may be taken from, for messages."""
    base = data_dir()
    looked = f" (not in {base})" if base is not None else ""
    return (
        f"put its parquet files into DIR/{name}{looked} and say --data-dir DIR or {DATA_DIR}=DIR, use "
        'parquet(path="...") or folder(path="..."), or "digits", which needs no files'
    )
