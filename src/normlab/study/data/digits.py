"""Real handwritten digits that come with scikit-learn."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np

from normlab.errors import SpecError
from normlab.study.data.base import DATASETS, Dataset, Split
from normlab.study.data.cache import checksum
from normlab.study.data.parts import split_by_class


@DATASETS.register("digits")
def digits(rng: np.random.Generator, train: int = 300, validation: int = 300) -> Dataset:
    """1,797 grey images of 8×8, ten classes of 174 to 183, pixels 0..16.

    Args:
        rng: of the split.
        train: number of training examples, equally many of each class.
        validation: likewise, 0 for none; the remaining images are the test set.

    Source: Alpaydin and Kaynak, UCI Optical Recognition of Handwritten Digits (its test part), as in `load_digits`.
    """
    from sklearn.datasets import load_digits

    for name, size in {"train": train, "validation": validation}.items():
        if type(size) is not int:
            raise SpecError(f"digits: {name}={size!r} should be a whole number")
    if not train:
        raise SpecError("digits: train=0 leaves nothing to train on; it should be a multiple of 10")
    pixels, classes = load_digits(return_X_y=True)
    images = np.asarray(pixels, dtype=np.uint8).reshape(-1, 1, 8, 8)
    labels = np.asarray(classes, dtype=np.int64)
    parts = split_by_class(labels, {"train": train, "validation": validation}, rng)
    facts = {"data": f"scikit-learn {version('scikit-learn')}", "data_checksum": checksum([images, labels])}
    return Dataset(*(Split(images, part, labels[part]) for part in parts), num_classes=10, scale=1 / 16, facts=facts)
