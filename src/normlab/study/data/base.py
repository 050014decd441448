"""What a dataset is to the trainer, and how to split one class by class."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from normlab.errors import SpecError
from normlab.registry import Registry
from normlab.seeding import Streams


@dataclass(frozen=True)
class Split:
    """Examples: images [n, C, H, W] uint8, labels [n] int64."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """Training, validation and test examples; `scale` turns a uint8 pixel into a number in [0, 1]."""

    train: Split
    validation: Split
    test: Split
    num_classes: int
    scale: float

    @property
    def in_channels(self) -> int:
        """Channels of an image."""
        return self.train.images.shape[1]


DATASETS: Registry[Dataset] = Registry("dataset")


@functools.lru_cache(maxsize=2)
def load(name: str, split_seed: int) -> Dataset:
    """The dataset of this name, split; kept in memory, because a worker trains many runs on it."""
    return DATASETS.create(name, rng=Streams(split_seed).numpy("split"))


def split_by_class(
    labels: NDArray[np.int64], sizes: dict[str, int], rng: np.random.Generator
) -> list[NDArray[np.intp]]:
    """Disjoint index sets with equally many examples of each class, and the rest.

    Args:
        labels: [n] class of each example.
        sizes: name → number of examples in all, a multiple of the number of classes; names are for messages.
        rng: decides who goes where.

    Returns:
        One sorted index array per size, then one with everything left over.
    """
    members = [rng.permutation(np.flatnonzero(labels == c)) for c in np.unique(labels)]
    fewest, starts = min(map(len, members)), np.zeros(len(members), dtype=int)
    parts: list[NDArray[np.intp]] = []
    for name, size in sizes.items():
        each, uneven = divmod(size, len(members))
        if uneven or each < 1:
            raise SpecError(f"{name}={size} should be a multiple of {len(members)}, the number of classes")
        parts.append(np.sort(np.concatenate([m[s : s + each] for m, s in zip(members, starts, strict=True)])))
        starts += each
    if starts[0] >= fewest:
        asked = " + ".join(f"{name}={size}" for name, size in sizes.items())
        raise SpecError(f"{asked} leaves no test example of the smallest class, which has {fewest}")
    parts.append(np.sort(np.concatenate([m[s:] for m, s in zip(members, starts, strict=True)])))
    return parts
