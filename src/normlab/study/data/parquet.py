"""Any parquet files with a column of images and one of labels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from normlab.study.data.base import DATASETS, Dataset
from normlab.study.data.build import Format
from normlab.study.data.decode import Channels, Fit
from normlab.study.data.own import own_dataset, own_path
from normlab.study.data.sources import Table, chain_files, parquet_files, parquet_tables, signature


@DATASETS.register("parquet")
def parquet(
    rng: np.random.Generator,
    *,
    path: str,
    image: str = "image",
    label: str = "label",
    train: str = "train",
    test: str = "test",
    channels: Channels | None = None,
    resize: int | None = None,
    fit: Fit = "crop",
    validation: float = 0.1,
) -> Dataset:
    """Parquet files as on the Hugging Face hub: `train-00000-of-00002.parquet`, `test-00000-of-00001.parquet`, ...

    Args:
        rng: of the split.
        path: their folder, or one above it; relative to the data directory, or else to the working directory.
        image: the column with the bytes of an image file, or {bytes, path} of one.
        label: the column with the class, a whole number from 0.
        train: how the names of the files to train on start.
        test: likewise to test.
        channels: 1 or 3; as the first image has, unless given.
        resize: side of the square that an image becomes; needed where images differ in size.
        fit: "crop" keeps the middle of the longer side, "stretch" keeps all of it.
        validation: share of each class of the training images that is held out.
    """
    files = parquet_files(own_path(path, "parquet"), {"train": train, "test": test})

    def tables() -> tuple[Mapping[str, Table], Mapping[str, str]]:
        return parquet_tables(files), {"data": f"parquet files {path}"}

    form = Format(image, (label,), channels, resize=resize, fit=fit)
    return own_dataset("parquet", [signature(chain_files(files))], tables, form, validation, rng)
