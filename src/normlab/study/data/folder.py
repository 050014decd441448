"""A folder of images: one folder for training and one for testing, in each a folder for every class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from normlab.errors import DataError
from normlab.study.data.base import DATASETS, Dataset
from normlab.study.data.build import Format
from normlab.study.data.decode import Channels, Fit
from normlab.study.data.own import own_dataset, own_path
from normlab.study.data.sources import Table, signature

IMAGES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True)
class FolderTable:
    """One split: the image files and the class of each."""

    what: str
    files: list[Path]
    labels: list[int]
    names: list[str]

    def columns(self, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """Of the columns "image" and "label"."""
        for path, label in zip(self.files, self.labels, strict=True):
            row = {"label": label, "image": _content(path) if "image" in names else b""}
            yield tuple(row[name] for name in names)

    def named(self, row: int) -> str:
        """Its file."""
        return str(self.files[row])

    def classes(self, label: str) -> int:
        """The number of class folders."""
        del label
        return len(self.names)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None


@DATASETS.register("folder")
def folder(
    rng: np.random.Generator,
    *,
    path: str,
    train: str = "train",
    test: str = "test",
    channels: Channels | None = None,
    resize: int | None = None,
    fit: Fit = "crop",
    validation: float = 0.1,
) -> Dataset:
    """Image files as `path/train/CLASS/FILE` and `path/test/CLASS/FILE`; classes are numbered in order of their names.

    Args:
        rng: of the split.
        path: the folder; relative to the data directory, or else to the working directory.
        train: name of the folder of training images.
        test: name of the folder of test images.
        channels: 1 or 3; as the first image has, unless given.
        resize: side of the square that an image becomes; needed where images differ in size.
        fit: "crop" keeps the middle of the longer side, "stretch" keeps all of it.
        validation: share of each class of the training images that is held out.
    """
    base = own_path(path, "folder")
    found = {split: _split(base / name) for split, name in (("train", train), ("test", test))}
    _same_classes(found)

    def tables() -> tuple[Mapping[str, Table], Mapping[str, str]]:
        return found, {"data": f"image files {path}"}

    key = [[list(zip(signature(t.files), t.labels, strict=True)), t.names] for t in found.values()]
    return own_dataset("folder", key, tables, Format(channels=channels, resize=resize, fit=fit), validation, rng)


def _split(place: Path) -> FolderTable:
    if not place.is_dir():
        raise DataError(f"{place} is no folder; folder(path=...) wants train/CLASS/FILE and test/CLASS/FILE in it")
    classes = sorted(child.name for child in place.iterdir() if child.is_dir() and not child.name.startswith("."))
    files, labels = list[Path](), list[int]()
    for label, name in enumerate(classes):
        images = sorted(file for file in (place / name).rglob("*") if file.suffix.lower() in IMAGES)
        if not images:
            raise DataError(f"{place / name}: no image in it; known are {', '.join(sorted(IMAGES))}")
        files += images
        labels += [label] * len(images)
    if len(classes) < 2:
        raise DataError(f"{place}: {len(classes)} folders in it; each class has one, and there are two classes or more")
    return FolderTable(str(place), files, labels, classes)


def _same_classes(found: Mapping[str, FolderTable]) -> None:
    fit, test = set(found["train"].names), set(found["test"].names)
    for one, other, where in ((fit, test, "test"), (test, fit, "train")):
        if missing := sorted(one - other):
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise DataError(f"{found[where].what}: class {missing[0]!r}{more} is missing")
