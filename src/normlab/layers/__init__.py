"""Normalization layers, one file each; `create` builds one by name."""

from normlab.layers import batch as batch  # each file named here registers its layer
from normlab.layers.base import NORMS, create
from normlab.layers.batch import BatchNorm

__all__ = ["NORMS", "BatchNorm", "create"]
