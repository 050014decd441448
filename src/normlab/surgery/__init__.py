"""Finds normalization layers and their weight and bias by type, and replaces them."""

from normlab.surgery.convert import convert
from normlab.surgery.export import prepare_export
from normlab.surgery.fold import FoldRecord, fold
from normlab.surgery.freeze import freeze, unfreeze
from normlab.surgery.frozen import frozen_stats
from normlab.surgery.norm_state import NormState, norm_state
from normlab.surgery.recalibrate import recalibrate
from normlab.surgery.record import ConversionRecord
from normlab.surgery.sites import Affine, Kind, Site, affine_params, is_norm, norm_sites, norm_type, register_norm_type
from normlab.surgery.stats_mode import stats_mode
from normlab.surgery.sync import sync_stats

__all__ = [
    "Affine",
    "ConversionRecord",
    "FoldRecord",
    "Kind",
    "NormState",
    "Site",
    "affine_params",
    "convert",
    "fold",
    "freeze",
    "frozen_stats",
    "is_norm",
    "norm_sites",
    "norm_state",
    "norm_type",
    "prepare_export",
    "recalibrate",
    "register_norm_type",
    "stats_mode",
    "sync_stats",
    "unfreeze",
]
