"""BatchNorm and those that only change its scale, its center or its denominator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.golden import Case
from tests.golden.claim import Claim, claimed, new_layer, our_names

Build = Callable[[Case], Claim]


def running(case: Case, keep: float | None = None) -> dict[str, Any]:
    """How the case keeps running statistics: as torch does, or, given its default, by the share that is kept."""
    tracked = any("running_" in key or "moving_" in key for key in case.arrays)
    if keep is None:
        return {"eps": case.eps(), "momentum": case.told("momentum", 0.1), "track_running_stats": tracked}
    told = case.told("momentum", case.told("keep_momentum", keep))
    return {
        "eps": case.eps(),
        "momentum": told,
        "momentum_convention": "keep",
        "running_var": "biased",
        "track_running_stats": tracked,
    }


def _like_torch(norm: str) -> Build:
    return lambda case: claimed(case, new_layer(norm, case, **running(case)))


def _batch(case: Case) -> Claim:
    own = {"formulation": case.kind} if case.kind in ("a1", "a2") else {}
    return claimed(case, new_layer("batch", case, **running(case), **own))


def _kept(norm: str) -> Build:
    """For codes that count momentum the other way round and store the biased variance."""
    return lambda case: claimed(case, new_layer(norm, case, **running(case, keep=0.9)))


def _representative(case: Case) -> Claim:
    names = our_names(case)
    layer = new_layer("rbn", case, center="center_weight" in names.values(), **running(case))
    return claimed(case, layer, names, apart=("x_after_forward",), note="in_place")


def counted(case: Case) -> dict[str, Any]:
    """What to compare where the original counter stays where it was; ours counts the training forwards."""
    steps = {"buf1.num_batches_tracked": 1, "buf2.num_batches_tracked": 2}
    counts = {key: case.tensor(key) + step for key, step in steps.items() if key in case.arrays}
    return {"instead": counts, "note": "counter" if counts else ""}


def _instance_enhancement(case: Case) -> Claim:
    return claimed(case, new_layer("iebn", case, **running(case)), **counted(case))


BATCH = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm", "ScaleBatchNorm2d")
LAYERS = {
    **dict.fromkeys((*BATCH, "a1", "a2"), _batch),
    "BN_self": _kept("batch"),
    "VN_self": _kept("variance"),
    "variance_norm": _like_torch("variance"),
    "mean_only_norm": _like_torch("mean_only"),
    "RepresentativeBatchNorm2d": _representative,
    "BAN2d": _instance_enhancement,
    "rbn-": _like_torch("rbn_minus"),
    "iebn-": _like_torch("iebn_minus"),
}
"""By class in the original code; by kind for formulas."""
