"""Small datasets in files, made as a user would."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (6, 8)  # height and width


def pictures(count: int, seed: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    """[count, H, W, 3] uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def png(picture: np.ndarray) -> bytes:
    """The picture as the contents of a file."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "png")
    return file.getvalue()


def parquet_bytes(encoded: Sequence[bytes], labels: Sequence[int], image: str = "image") -> bytes:
    """A parquet file as on the hub."""
    import pyarrow as pa
    import pyarrow.parquet

    rows = [{"bytes": content, "path": None} for content in encoded]
    file = io.BytesIO()
    pyarrow.parquet.write_table(pa.table({image: rows, "label": list(labels)}), file)
    return file.getvalue()


def write_parquet(
    folder: Path, *, train: int = 30, test: int = 9, classes: int = 3, instead: Mapping[str, tuple] | None = None
) -> Path:
    """`train-*.parquet` in two files and `test-*.parquet`; instead: split → other (encoded images, labels)."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (split, count) in enumerate({"train": train, "test": test}.items()):
        encoded, labels = [png(p) for p in pictures(count, seed)], [k % classes for k in range(count)]
        encoded, labels = (instead or {}).get(split, (encoded, labels))
        half = len(labels) // 2 if split == "train" else 0
        parts = [slice(0, half), slice(half, None)] if half else [slice(None)]
        for number, part in enumerate(parts):
            name = f"{split}-{number:05}-of-{len(parts):05}.parquet"
            (folder / name).write_bytes(parquet_bytes(encoded[part], labels[part]))
    return folder


def write_folder(folder: Path, *, train: int = 30, test: int = 9, size: tuple[int, int] = SIZE) -> Path:
    """train/CLASS/FILE and test/CLASS/FILE."""
    for seed, (split, count) in enumerate({"train": train, "test": test}.items()):
        for number, picture in enumerate(pictures(count, seed, size)):
            place = folder / split / ("ant", "bee", "cat")[number % 3]
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number:03}.png").write_bytes(png(picture))
    return folder
