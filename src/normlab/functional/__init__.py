"""Normalization as functions: `normalize`, the algebra on instance moments, and the choice of a backend."""

from normlab.functional.backends import Choice, backend, use_backend
from normlab.functional.moments import (
    Moments,
    blend,
    pool,
    pool_batch,
    pool_by,
    pool_channels,
    pool_groups,
    standardize,
    unbiased,
)
from normlab.functional.normalize import normalize

__all__ = [
    "Choice",
    "Moments",
    "backend",
    "blend",
    "normalize",
    "pool",
    "pool_batch",
    "pool_by",
    "pool_channels",
    "pool_groups",
    "standardize",
    "unbiased",
    "use_backend",
]
