"""CIFAR-100."""

from __future__ import annotations

import numpy as np

from normlab.study.data.base import DATASETS, Dataset
from normlab.study.data.build import Format, Published
from normlab.study.data.cifar10 import binary_version
from normlab.study.data.images import Counts
from normlab.study.data.pinned import Pinned

SOURCE = Pinned(
    "cifar100",
    "uoft-cs/cifar100",
    "aadb3af77e9048adbea6b47c21a81e47dd092ae5",
    Format(
        image="img",
        channels=3,
        labels=("coarse_label", "fine_label"),
        classes=100,
        counts=Counts(50_000, 10_000, 100),
        published=Published(
            {
                "train": ("e207cd2e05b73b1393c74c7f5e7bea451d63e08e",),
                "test": ("8fb6623e830365ff53cf14adec797474f5478006",),
            },
            binary_version,
        ),
    ),
)


@DATASETS.register("cifar100")
def cifar100(rng: np.random.Generator, validation: float = 0.1) -> Dataset:
    """50,000 colour images of 32×32 to train on and 10,000 to test, a hundred fine classes, equally many of each.

    Args:
        rng: of the split.
        validation: share of each class of the training images that is held out: 450 and 50 by default.

    Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009; SHA-1s as in Apache MXNet.
    """
    return SOURCE.load(validation, rng)
