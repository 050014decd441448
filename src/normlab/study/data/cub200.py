"""Caltech-UCSD Birds-200-2011."""

from __future__ import annotations

import numpy as np

from normlab.study.data.base import DATASETS, Dataset
from normlab.study.data.build import Format
from normlab.study.data.decode import Fit
from normlab.study.data.images import Counts
from normlab.study.data.pinned import Pinned

# No copy on the hub is canonical: the commit that was taken is in the record of every run, and counts are checked.
SOURCE = Pinned(
    "cub200",
    "bentrevett/caltech-ucsd-birds-200-2011",
    "main",
    Format(channels=3, classes=200, counts=Counts(5_994, 5_794, 200, balanced=False)),
)


@DATASETS.register("cub200")
def cub200(rng: np.random.Generator, validation: float = 0.1, resize: int = 256, fit: Fit = "crop") -> Dataset:
    """5,994 colour photographs of birds to train on and 5,794 to test, 200 species.

    Args:
        rng: of the split.
        validation: share of each class of the training images that is held out.
        resize: side of the square that an image becomes; with `augment = ["crop(size=224)", "flip"]` as in the papers.
        fit: "crop" keeps the middle of the longer side, "stretch" keeps all of it.

    Source: Wah, Branson, Welinder, Perona and Belongie, CNS-TR-2011-001, California Institute of Technology, 2011.
    """
    return SOURCE.resized(resize, fit).load(validation, rng)
