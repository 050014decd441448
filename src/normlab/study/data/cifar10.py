"""CIFAR-10."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from normlab.study.data.base import DATASETS, Dataset
from normlab.study.data.build import Format, Published
from normlab.study.data.images import Counts
from normlab.study.data.pinned import Pinned


def binary_version(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> str:
    """SHA-1 of a file of CIFAR's binary version: of each image its labels, a byte each, and its pixels by channel."""
    return hashlib.sha1(np.hstack([labels.astype(np.uint8), images.reshape(len(images), -1)]).tobytes()).hexdigest()


SOURCE = Pinned(
    "cifar10",
    "uoft-cs/cifar10",
    "0b2714987fa478483af9968de7c934580d0bb9a2",
    Format(
        image="img",
        channels=3,
        classes=10,
        counts=Counts(50_000, 10_000, 10),
        published=Published(
            {
                "train": (
                    "aadd24acce27caa71bf4b10992e9e7b2d74c2540",
                    "c0ba65cce70568cd57b4e03e9ac8d2a5367c1795",
                    "1dd00a74ab1d17a6e7d73e185b69dbf31242f295",
                    "aab85764eb3584312d3c7f65fd2fd016e36a258e",
                    "26e2849e66a845b7f1e4614ae70f4889ae604628",
                ),
                "test": ("67eb016db431130d61cd03c7ad570b013799c88c",),
            },
            binary_version,
        ),
    ),
)


@DATASETS.register("cifar10")
def cifar10(rng: np.random.Generator, validation: float = 0.1) -> Dataset:
    """50,000 colour images of 32×32 to train on and 10,000 to test, ten classes, equally many of each.

    Whatever copy they come from, the images are in the order of the original five files, and checked against them.

    Args:
        rng: of the split.
        validation: share of each class of the training images that is held out: 4,500 and 500 by default.

    Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009; SHA-1s as in Apache MXNet.
    """
    return SOURCE.load(validation, rng)
