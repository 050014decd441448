"""Finds normalization layers and their weight and bias by type, and replaces them."""

from normlab.surgery.replace import reformulate, replace
from normlab.surgery.sites import Affine, Kind, Site, affine_params, is_norm, norm_sites, norm_type, register_norm_type

__all__ = [
    "Affine",
    "Kind",
    "Site",
    "affine_params",
    "is_norm",
    "norm_sites",
    "norm_type",
    "reformulate",
    "register_norm_type",
    "replace",
]
