"""Where torchvision's compiled operators do not fit torch, lightning cannot be imported either, and this helps."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from normlab.study.models import import_timm

import_timm()


@pytest.fixture(autouse=True, scope="package")
def what_is_there_is_not_collected() -> Iterator[None]:
    """HF Trainer looks for garbage in each training, among all that libraries have made: four fifths of its time."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
