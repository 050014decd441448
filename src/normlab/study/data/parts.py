"""Which examples are for training, validation and testing; and what a study may take away or spoil."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from normlab.errors import SpecError
from normlab.study.data.base import Dataset, Split

Rows = NDArray[np.intp]


def split_by_class(labels: NDArray[np.int64], sizes: dict[str, int], rng: np.random.Generator) -> list[Rows]:
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
    parts: list[Rows] = []
    for name, size in sizes.items():
        each, uneven = divmod(size, len(members))
        if uneven or each < 0:
            raise SpecError(f"{name}={size} should be a multiple of {len(members)}, the number of classes")
        parts.append(np.sort(np.concatenate([m[s : s + each] for m, s in zip(members, starts, strict=True)])))
        starts += each
    if starts[0] >= fewest:
        asked = " + ".join(f"{name}={size}" for name, size in sizes.items())
        raise SpecError(f"{asked} leaves no test example of the smallest class, which has {fewest}")
    parts.append(np.sort(np.concatenate([m[s:] for m, s in zip(members, starts, strict=True)])))
    return parts


def hold_out(labels: NDArray[np.int64], share: float, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """Sorted rows to train on, and to validate on: `share` of each class, rounded, one example at least; or none.

    Raises:
        SpecError: a class would have none left to train on.
    """
    if share == 0:
        return np.arange(len(labels)), np.arange(0)
    fit, held = list[Rows](), list[Rows]()
    for c in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == c))
        count = max(1, round(share * len(members)))
        if count >= len(members):
            raise SpecError(f"validation={share} leaves no training example of class {c}, which has {len(members)}")
        held.append(members[:count])
        fit.append(members[count:])
    return np.sort(np.concatenate(fit)), np.sort(np.concatenate(held))


def check_share(share: float) -> None:
    """Refuse what is no share of each class to hold out for validation."""
    if not 0 <= share < 1:
        raise SpecError(f"validation={share} should be from 0 to below 1: the share of each class that is held out")


def restrict(data: Dataset, limit: int, rng: np.random.Generator) -> Dataset:
    """At most `limit` examples to train and validate on together, shared as before, and as many to test.

    Equally many of each class; what a smaller limit leaves is among what a larger one does.

    Raises:
        SpecError: less than one example of each class to train on and one to validate on.
    """
    each, share = limit // data.num_classes, len(data.validation) / (len(data.train) + len(data.validation))
    if each < (2 if share else 1):
        raise SpecError(
            f"data.limit={limit} should be {(2 if share else 1) * data.num_classes} or more: of each of the "
            f"{data.num_classes} classes one example to train on{' and one to validate on' if share else ''}"
        )
    held = min(each - 1, max(1, round(share * each))) if share else 0
    fit, validation, test = (
        _few(split, count, rng)
        for split, count in ((data.train, each - held), (data.validation, held), (data.test, each))
    )
    return replace(data, train=fit, validation=validation, test=test)


def _few(split: Split, count: int, rng: np.random.Generator) -> Split:
    """At most `count` examples of each class."""
    kept = [rng.permutation(np.flatnonzero(split.labels == c))[:count] for c in np.unique(split.labels)]
    chosen = np.sort(np.concatenate([*kept, np.arange(0)]))
    return Split(split.pool, split.rows[chosen], split.labels[chosen])


def mislabel(data: Dataset, share: float, rng: np.random.Generator) -> Dataset:
    """`share` of the training labels replaced by another class, drawn evenly."""
    if not share:
        return data
    chosen = rng.permutation(len(data.train))[: round(share * len(data.train))]
    labels = data.train.labels.copy()
    labels[chosen] = (labels[chosen] + rng.integers(1, data.num_classes, len(chosen))) % data.num_classes
    return replace(data, train=Split(data.train.pool, data.train.rows, labels))
