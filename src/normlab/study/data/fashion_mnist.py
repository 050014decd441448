"""Fashion-MNIST."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from normlab.errors import DataError
from normlab.study.data.base import DATASETS, Dataset
from normlab.study.data.build import Format, Published
from normlab.study.data.cache import Shelf, cached
from normlab.study.data.images import Counts, as_dataset, check_labels
from normlab.study.data.parts import check_share
from normlab.study.data.pinned import Pinned, local_folder
from normlab.study.data.sources import signature

OPENERS = {".xz": lzma.open, ".gz": gzip.open, "": Path.open}
FILES = {"train": "train", "test": "t10k"}
COUNTS = Counts(60_000, 10_000, 10)


def idx_digest(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> str:
    """MD5s of the two idx files of a split."""
    count = len(images).to_bytes(4, "big")
    of_images = hashlib.md5(b"\x00\x00\x08\x03" + count + (28).to_bytes(4, "big") * 2 + images.tobytes())
    of_labels = hashlib.md5(b"\x00\x00\x08\x01" + count + labels.astype(np.uint8).tobytes())
    return f"{of_images.hexdigest()} {of_labels.hexdigest()}"


PUBLISHED = Published(
    {
        "train": ("f4a8712d7a061bf5bd6d2ca38dc4d50a 9018921c3c673c538a1fc5bad174d6f9",),
        "test": ("8181f5470baa50b63fa0f6fddb340f0a 15d484375f8d13e6eb1aabb0c3f46965",),
    },
    idx_digest,
)
SOURCE = Pinned(
    "fashion_mnist",
    "zalando-datasets/fashion_mnist",
    "531be5e2ccc9dba0c201ad3ae567a4f3d16ecdd2",
    Format(channels=1, classes=10, counts=COUNTS, published=PUBLISHED),
)


@DATASETS.register("fashion_mnist")
def fashion_mnist(rng: np.random.Generator, validation: float = 0.1) -> Dataset:
    """60,000 grey images of 28×28 to train on and 10,000 to test, ten classes, equally many of each.

    A local copy may be the four original idx files, plain, .gz or .xz, or the hub's parquet files.

    Args:
        rng: of the split.
        validation: share of each class of the training images that is held out: 5,400 and 600 by default.

    Source: Xiao, Rasul and Vollgraf, arXiv:1708.07747; MD5s of the idx files as in torchvision.
    """
    check_share(validation)
    files = _idx_files()
    if files is None:
        return SOURCE.load(validation, rng)

    def fill(shelf: Shelf) -> Mapping[str, str]:
        for split in FILES:
            _read_split(shelf, split, files[f"{split} images"], files[f"{split} labels"])
        return {"data": "fashion_mnist, local copy", "classes": "10"}

    return as_dataset(cached("fashion_mnist", [signature(list(files.values()))], fill), validation, rng)


def _idx_files() -> dict[str, Path] | None:
    """The four files of a local copy; None where there is none of them."""
    folder = local_folder("fashion_mnist")
    if folder is None or not any(folder.glob("*-ubyte*")):
        return None
    found: dict[str, Path] = {}
    for split, start in FILES.items():
        for kind, rank in (("images", 3), ("labels", 1)):
            name = f"{start}-{kind}-idx{rank}-ubyte"
            there = [path for ending in OPENERS if (path := folder / f"{name}{ending}").is_file()]
            if not there:
                raise DataError(f"{folder}: no {name}, {name}.gz or {name}.xz in it")
            found[f"{split} {kind}"] = there[0]
    return found


def _read_split(shelf: Shelf, split: str, images: Path, labels: Path) -> None:
    count = COUNTS.train if split == "train" else COUNTS.test
    pixels = _idx(images, 16, count * 28 * 28).reshape(count, 1, 28, 28)
    classes = _idx(labels, 8, count).astype(np.int64)
    check_labels({split: classes}, 10, COUNTS, "fashion_mnist")
    PUBLISHED.arrange(split, pixels, classes[:, None], "fashion_mnist")
    shelf.array(f"{split}_images", pixels.shape, np.uint8)[:] = pixels
    shelf.array(f"{split}_labels", classes.shape, np.int64)[:] = classes


def _idx(path: Path, header: int, size: int) -> NDArray[np.uint8]:
    """The bytes after the header, which should be `size`."""
    try:
        with cast(IO[bytes], OPENERS[path.suffix if path.suffix in OPENERS else ""](path, "rb")) as file:
            content = file.read()
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    if len(content) != header + size:
        raise DataError(f"{path} holds {len(content):,} bytes, where {header + size:,} should be")
    return np.frombuffer(content, np.uint8, offset=header)
