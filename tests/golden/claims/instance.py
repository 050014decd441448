"""Norms of each example alone, and of any set of examples and channels: IN, LN, GN and Meta Norm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from itertools import chain

import torch

from normlab.errors import SpecError
from tests.golden import Case
from tests.golden.claim import Claim, claimed, new_layer
from tests.golden.claims.batch import counted, running


def with_groups(case: Case, build: Callable[[int], Claim]) -> Claim:
    """The claim with the number of groups that gives y_train; files tell none, or one for all cases of a script."""
    told = case.told("num_groups", case.told("groups"))
    return fitting(case, (build(groups) for groups in divisors(case.channels, told)))


def divisors(n: int, first: int | None = None) -> list[int]:
    """All divisors of n, the largest first; before these the one that is told, if it is one."""
    found = [d for d in range(n, 0, -1) if n % d == 0]
    return ([first] if first in found else []) + found


def fitting(case: Case, claims: Iterator[Claim]) -> Claim:
    """The first claim whose layer gives y_train; where none does the very first, whose replay will say by how much."""
    first = next(claims)
    if case.expect != "ok":
        return first
    return next((claim for claim in chain([first], claims) if _fits(claim, case)), first)


def _fits(claim: Claim, case: Case) -> bool:
    try:
        with torch.no_grad():
            y = deepcopy(claim.layer)(case.tensor("x"))
    except SpecError:
        return False
    worst, allowed = case.difference(y, case.tensor("y_train"))
    return worst <= allowed


def _instance(case: Case) -> Claim:
    return claimed(case, new_layer("instance", case, one_value="bias", **running(case)), **counted(case))


def _group(case: Case) -> Claim:
    """A group of one value has no unbiased variance: there the biased one is compared, with which y is the bias."""
    nan = case.expect == "nan"
    ddof = 1 if case.cls == "GN_self" and not nan else 0
    options = {"eps": case.eps(), "ddof": ddof, "one_value": "bias"}
    if nan:
        return _constant(case, claimed(case, new_layer("group", case, num_groups=case.channels, **options)))
    return with_groups(case, lambda groups: claimed(case, new_layer("group", case, num_groups=groups, **options)))


def _constant(case: Case, claim: Claim) -> Claim:
    """The same claim, where y should be the bias and nothing of x."""
    bias = getattr(claim.layer, "bias", None)
    zero = torch.zeros_like(case.tensor("x"))
    y = zero if bias is None else zero + bias.detach().reshape(1, -1, *[1] * (zero.dim() - 2))
    arrays = {"y_train": y, "dx": zero}
    evals = [key for key in ("y_eval", "y_eval_untrained") if key in case.arrays]
    arrays |= {key: y[:1].expand(case.arrays[key].shape) for key in evals}
    weights = [name for name, ours in claim.names.items() if ours == "weight"]
    arrays |= {f"grad.{name}": torch.zeros(case.channels) for name in weights}
    return replace(claim, instead=arrays, note="one_value")


def _layer(case: Case) -> Claim:
    """torch's has an affine value per channel and position."""
    spatial = case.arrays["x"].shape[2:] if case.cls == "LayerNorm" and case.arrays["x"].ndim > 2 else None
    return claimed(case, new_layer("layer", case, spatial=spatial, eps=case.eps(), one_value="bias"))


def _meta(case: Case) -> Claim:
    sets = {name: case.tensor(f"buf0.{name}") for name in ("U", "V")}
    layer = new_layer("meta", case, eps=case.eps(), **sets)
    unfollowed = "y_as_written" in case.arrays
    return claimed(case, layer, apart=("y_as_written",) * unfollowed, note="as_written" * unfollowed)


LAYERS = {
    **dict.fromkeys(("InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d", "IN_self"), _instance),
    **dict.fromkeys(("GroupNorm", "GN_self"), _group),
    **dict.fromkeys(("LayerNorm", "LN_self"), _layer),
    "metanorm": _meta,
}
"""By class in the original code; by kind for formulas."""
