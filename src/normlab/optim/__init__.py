"""Optimizers that know what a normalization layer is."""

from normlab.optim.sam import SAM

__all__ = ["SAM"]
