"""The order of callbacks."""

from __future__ import annotations

import lightning.pytorch as L
from lightning.pytorch.callbacks import WeightAveraging

from normlab.errors import SpecError


def callbacks_of(trainer: L.Trainer) -> list[L.Callback]:
    """As they are called."""
    return trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue] - set by a connector


def require_order(trainer: L.Trainer, callback: L.Callback, *, averaging_first: bool) -> None:
    """Refuse a WeightAveraging before the callback, or with `averaging_first` after it.

    Raises:
        SpecError: says the order.
    """
    others = callbacks_of(trainer)
    place = others.index(callback)
    wrong = others[place + 1 :] if averaging_first else others[:place]
    if any(isinstance(other, WeightAveraging) for other in wrong):
        raise SpecError(
            "callbacks should be in the order NormRecipe, WeightAveraging, RecalibrateOnEval, so that averaged are the "
            "prepared weights, and recalibrated the averaged ones"
        )
