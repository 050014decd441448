"""Any image dataset of the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from normlab.study.data.base import DATASETS, Dataset
from normlab.study.data.build import Format
from normlab.study.data.decode import Channels, Fit
from normlab.study.data.own import own_dataset
from normlab.study.data.sources import Table, hub_revision, hub_tables


@DATASETS.register("hub")
def hub(
    rng: np.random.Generator,
    *,
    id: str,
    image: str = "image",
    label: str = "label",
    revision: str = "main",
    config: str | None = None,
    train: str = "train",
    test: str = "test",
    channels: Channels | None = None,
    resize: int | None = None,
    fit: Fit = "crop",
    validation: float = 0.1,
) -> Dataset:
    """A dataset with a column of images and one of classes, by its name on the hub, "zalando-datasets/fashion_mnist".

    Args:
        rng: of the split.
        id: its name.
        image: the column of images.
        label: the column of classes, whole numbers from 0.
        revision: a commit, 40 hexadecimal digits, is the same for good; a branch is looked up, and its commit recorded.
        config: which of its configurations, where it has several.
        train: the split to train on.
        test: the split to test on.
        channels: 1 or 3; as the first image has, unless given.
        resize: side of the square that an image becomes; needed where images differ in size.
        fit: "crop" keeps the middle of the longer side, "stretch" keeps all of it.
        validation: share of each class of the training images that is held out.
    """
    where = 'download its files and use parquet(path="...") or folder(path="...")'
    pinned = re.fullmatch("[0-9a-f]{40}", revision) is not None
    commit = revision if pinned else hub_revision(id, revision, alternatives=where)

    def tables() -> tuple[Mapping[str, Table], Mapping[str, str]]:
        hub_revision(id, commit, alternatives=where)  # a hub that does not answer is told before downloads are retried
        splits = {"train": train, "test": test}
        found = hub_tables(id, commit, config=config, splits=splits, alternatives=where)
        return found, {"data": id, "data_revision": commit}

    form = Format(image, (label,), channels, resize=resize, fit=fit)
    return own_dataset("hub", [id, commit, config, train, test], tables, form, validation, rng)
