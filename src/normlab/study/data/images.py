"""What training and test images should hold, and how they become a dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from normlab.errors import DataError
from normlab.study.data.base import Dataset, Split
from normlab.study.data.cache import Cached
from normlab.study.data.parts import hold_out


@dataclass(frozen=True)
class Counts:
    """What a dataset is known to hold.

    Attributes:
        train: images, in all.
        test: likewise.
        classes: their number.
        balanced: every class has equally many.
    """

    train: int
    test: int
    classes: int
    balanced: bool = True


def check_labels(labels: Mapping[str, NDArray[np.int64]], classes: int, counts: Counts | None, what: str) -> None:
    """Refuse splits that do not hold what they should.

    Args:
        labels: of each split.
        classes: how many there are.
        counts: what is known of this dataset.

    Raises:
        DataError: another number of images, a class missing from a split, labels that are no classes.
    """
    for split, found in labels.items():
        expected = None if counts is None else getattr(counts, split)
        if expected is not None and len(found) != expected:
            raise DataError(f"{what}: {len(found):,} images in {split}, where {expected:,} should be")
        if not len(found):
            raise DataError(f"{what}: no image in {split}")
        if found.min() < 0 or found.max() >= classes:
            wrong = found.min() if found.min() < 0 else found.max()
            raise DataError(f"{what}: label {wrong} in {split}, where classes are 0..{classes - 1}")
        per_class = np.bincount(found, minlength=classes)
        if not per_class.all():
            missing = np.flatnonzero(per_class == 0)
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise DataError(f"{what}: class {missing[0]}{more} is missing from {split}")
        if counts is not None and counts.balanced and len(set(per_class)) > 1:
            few = per_class.argmin()
            raise DataError(
                f"{what}: class {few} has {per_class[few]:,} images in {split}, where each should have "
                f"{len(found) // classes:,}"
            )


def as_dataset(entry: Cached, validation: float, rng: np.random.Generator) -> Dataset:
    """The cached arrays as a dataset: `validation` of each class of the training images are held out."""
    arrays = entry.arrays
    labels, test = np.array(arrays["train_labels"]), np.array(arrays["test_labels"])
    fit, held = hold_out(labels, validation, rng)
    pool = arrays["train_images"]
    return Dataset(
        Split(pool, fit, labels[fit]),
        Split(pool, held, labels[held]),
        Split(arrays["test_images"], np.arange(len(test)), test),
        num_classes=int(entry.facts["classes"]),
        scale=1 / 255,
        facts={name: value for name, value in entry.facts.items() if name != "classes"},
    )
