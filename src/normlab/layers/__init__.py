"""Normalization layers, one file each, named here to register them; `create` builds one by name."""

from normlab.layers.base import NORMS, create
from normlab.layers.batch import BatchNorm

__all__ = ["NORMS", "BatchNorm", "create"]
