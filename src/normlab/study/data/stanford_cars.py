"""Stanford Cars."""

from __future__ import annotations

import numpy as np

from normlab.study.data.base import DATASETS, Dataset
from normlab.study.data.build import Format
from normlab.study.data.decode import Fit
from normlab.study.data.images import Counts
from normlab.study.data.pinned import Pinned

SOURCE = Pinned(
    "stanford_cars",
    "tanganke/stanford_cars",
    "9abf6cf7d6dfa7b95152a0d6e791ea9435b47a40",
    Format(channels=3, classes=196, counts=Counts(8_144, 8_041, 196, balanced=False)),
)


@DATASETS.register("stanford_cars")
def stanford_cars(rng: np.random.Generator, validation: float = 0.1, resize: int = 256, fit: Fit = "crop") -> Dataset:
    """8,144 colour photographs of cars to train on and 8,041 to test, 196 models.

    Args:
        rng: of the split.
        validation: share of each class of the training images that is held out.
        resize: side of the square that an image becomes; with `augment = ["crop(size=224)", "flip"]` as in the papers.
        fit: "crop" keeps the middle of the longer side, "stretch" keeps all of it.

    Source: Krause, Stark, Deng and Fei-Fei, 3D Object Representations for Fine-Grained Categorization, 2013.
    """
    return SOURCE.resized(resize, fit).load(validation, rng)
