"""Where torchvision's compiled operators do not fit torch, lightning cannot be imported either, and this helps."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator

import pytest

from normlab.study.models import import_timm

import_timm()

from lightning.fabric.utilities.rank_zero import LightningDeprecationWarning  # noqa: E402 (only now)
from lightning.fabric.utilities.warnings import PossibleUserWarning  # noqa: E402 (only now)


@pytest.fixture(autouse=True, scope="package")
def what_is_there_is_not_collected() -> Iterator[None]:
    """HF Trainer looks for garbage in each training, among all that libraries have made: four fifths of its time."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@pytest.fixture(autouse=True)
def advice_on_speed() -> Iterator[None]:
    """Of no use here; and pytest-xdist's first process, which cannot import lightning, could not print it."""
    with warnings.catch_warnings():
        for category in (PossibleUserWarning, LightningDeprecationWarning):
            warnings.simplefilter("ignore", category)
        yield
