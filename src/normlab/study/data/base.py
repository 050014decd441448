"""What a dataset is to the trainer."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from normlab.registry import Registry


@dataclass(frozen=True)
class Split:
    """Some examples of a pool that the splits of a dataset share.

    Attributes:
        pool: [N, C, H, W] uint8; where it comes from the cache, a memory map that all processes share.
        rows: [n] which images of the pool are in this split.
        labels: [n] int64, the class of each.
    """

    pool: NDArray[np.uint8]
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    @functools.cached_property
    def images(self) -> NDArray[np.uint8]:
        """[n, C, H, W] uint8; the pool itself where the split is all of it, else a copy."""
        return self.pool if np.array_equal(self.rows, np.arange(len(self.pool))) else self.pool[self.rows]


@dataclass(frozen=True)
class Dataset:
    """Training, validation and test examples.

    Attributes:
        scale: turns a uint8 pixel into a number in [0, 1].
        facts: what a run keeps about its data: where it is from, which revision, checksum of the decoded pixels.
    """

    train: Split
    validation: Split
    test: Split
    num_classes: int
    scale: float
    facts: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def in_channels(self) -> int:
        """Channels of an image."""
        return self.train.pool.shape[1]

    @property
    def shape(self) -> tuple[int, int, int]:
        """[C, H, W] of an image."""
        channels, height, width = self.train.pool.shape[1:]
        return channels, height, width


DATASETS: Registry[Dataset] = Registry("dataset")
