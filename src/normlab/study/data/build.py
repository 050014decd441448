"""Tables of encoded images → arrays in the cache, checked against what is known of the dataset."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normlab.errors import DataError, SpecError
from normlab.study.data.cache import Shelf
from normlab.study.data.decode import Channels, Fit, decoded, image_shape
from normlab.study.data.images import Counts, check_labels
from normlab.study.data.places import cache_dir
from normlab.study.data.sources import Table

Digest = Callable[[NDArray[np.uint8], NDArray[np.int64]], str]


@dataclass(frozen=True)
class Published:
    """Checksums of the files that a dataset was first published as.

    Attributes:
        digests: split → one of each original file, in order; files of a split are equally long.
        digest: the checksum that a file with these images [n, C, H, W] and labels [n, label columns] has.
    """

    digests: Mapping[str, tuple[str, ...]]
    digest: Digest

    def arrange(self, split: str, images: NDArray[np.uint8], labels: NDArray[np.int64], what: str) -> None:
        """Put the files' contents into their original order, in place; copies differ in it.

        Raises:
            DataError: pixels or labels that are not the published ones.
        """
        wanted = self.digests[split]
        size = len(images) // len(wanted)
        parts = [slice(size * part, size * (part + 1)) for part in range(len(wanted))]
        found = [self.digest(images[part], labels[part]) for part in parts]
        if sorted(found) != sorted(wanted):
            wrong = next(n for n, digest in enumerate(found) if digest not in wanted or found.index(digest) < n)
            raise DataError(
                f"{what}: images {parts[wrong].start:,} to {parts[wrong].stop - 1:,} of {split} differ from those "
                "published, in a pixel, a label or their order (checksum)"
            )
        if found != list(wanted):
            order = [parts[found.index(digest)] for digest in wanted]
            images[:], labels[:] = (np.concatenate([array[part] for part in order]) for array in (images, labels))


@dataclass(frozen=True)
class Format:
    """How the tables of a dataset are to be read.

    Attributes:
        image: the column of images.
        labels: columns of labels; the last one is what is classified.
        channels: 1 or 3; None: as the first image has.
        classes: their number; None: what the table says, or else one more than the largest label in training.
        resize, fit: see `decoded`.
        counts, published: what is known of this dataset.
    """

    image: str = "image"
    labels: tuple[str, ...] = ("label",)
    channels: Channels | None = None
    classes: int | None = None
    resize: int | None = None
    fit: Fit = "crop"
    counts: Counts | None = None
    published: Published | None = None

    def check(self, what: str) -> None:
        """Raise SpecError where images cannot be made so."""
        if self.resize is not None and self.resize < 1:
            raise SpecError(f"{what}: resize={self.resize} should be 1 pixel or more")


def fill(shelf: Shelf, tables: Mapping[str, Table], form: Format, what: str) -> int:
    """Decode the splits "train" and "test" onto the shelf.

    Returns:
        The number of classes.

    Raises:
        DataError: damaged files, counts that do not match, a class missing from a split, images of different sizes.
    """
    labels = {split: _labels(table, form) for split, table in tables.items()}
    classes = form.classes or tables["train"].classes(form.labels[-1]) or int(labels["train"][:, -1].max(initial=0)) + 1
    check_labels({split: rows[:, -1] for split, rows in labels.items()}, classes, form.counts, what)
    _announce(sum(map(len, labels.values())), what)
    shape: tuple[int, int, int] | None = None
    for split, table in tables.items():
        encoded = (_bytes(row[0], table) for row in table.columns([form.image]))
        first = next(encoded)
        found = image_shape(first, resize=form.resize, what=table.named(0))
        shape = shape or (form.channels or found[0], *found[1:])
        images = shelf.array(f"{split}_images", (len(labels[split]), *shape), np.uint8)
        _decode_into(images, chain([first], encoded), form, table)
        if form.published is not None:
            form.published.arrange(split, images, labels[split], what)
        shelf.array(f"{split}_labels", (len(images),), np.int64)[:] = labels[split][:, -1]
    return classes


def _announce(images: int, what: str) -> None:
    """What takes longer than a moment is told."""
    if images > 10_000:
        print(f"{what}: decoding {images:,} images, once, into {cache_dir()}", file=sys.stderr, flush=True)


def _labels(table: Table, form: Format) -> NDArray[np.int64]:
    """[n, label columns]."""
    rows = list(table.columns(form.labels))
    wrong = [row for row in rows if any(type(value) is not int for value in row)]
    if wrong:
        raise DataError(f"{table.what}: label {wrong[0][-1]!r} is no whole number; classes are numbered from 0")
    return np.array(rows, dtype=np.int64).reshape(-1, len(form.labels))


def _bytes(value: Any, table: Table) -> bytes:
    if not isinstance(value, bytes):
        raise DataError(f"{table.what}: an image is {type(value).__name__}; it should be the bytes of an image file")
    return value


def _decode_into(images: NDArray[np.uint8], encoded: Iterable[bytes], form: Format, table: Table) -> None:
    count, shape = 0, images.shape[1:]
    for image in decoded(encoded, channels=shape[0], resize=form.resize, fit=form.fit, named=table.named):
        if image.shape != shape:
            raise DataError(
                f"{table.named(count)} has {image.shape[1]}x{image.shape[2]} pixels and the first one "
                f"{shape[1]}x{shape[2]}; resize=256, say, makes them alike"
            )
        if count < len(images):
            images[count] = image
        count += 1
    if count != len(images):
        raise DataError(f"{table.what}: {count:,} images for {len(images):,} labels")
