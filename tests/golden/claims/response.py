"""Norms without centering, whose activation is their own: FRN with its threshold, EvoNorm."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from normlab import functional as F
from tests.golden import Case
from tests.golden.claim import Claim, claimed, new_layer, our_names
from tests.golden.claims.batch import running
from tests.golden.claims.instance import with_groups

TIMM = ("EvoNorm2dB0", "EvoNorm2dS0")


class Threshold(nn.Module):
    """max(x, τ) by the floor of `functional.normalize`, which is FRN's second half."""

    def __init__(self, num_features: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.zeros(num_features, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, lambda m: (x.new_ones(1, 1), x.new_zeros(1, 1)), floor=self.threshold)


def _threshold(case: Case) -> Claim:
    return claimed(case, Threshold(case.channels, case.dtype))


def _response(case: Case) -> Claim:
    """The |eps| of the ports is learned, per channel or per layer, or a frozen number, or told."""
    names, params = our_names(case), case.under("param")
    options = {"eps": case.eps(1e-5), "learn_eps": "no"}
    for name, ours in names.items():
        if ours == "learned_eps" and name in case.meta.get("frozen_params", ()):
            eps = params[name].abs().flatten()
            assert eps.eq(eps[0]).all(), "a frozen eps that differs from channel to channel"
            names, options = {**names, name: None}, {"eps": eps[0].item(), "learn_eps": "no"}
        elif ours == "learned_eps":
            options = {"eps": 0.0, "learn_eps": "layer" if params[name].dim() == 1 else "channel"}
    return claimed(case, new_layer("frn", case, names, tlu="threshold" in names.values(), **options), names)


def _evo_b0(case: Case) -> Claim:
    """timm's defaults are torch's; the others keep 0.9 of a biased variance. No unbiased variance of one value."""
    names = our_names(case)
    timm, alone = case.cls in TIMM, case.arrays["x"][0, 0].size == 1
    options = running(case) | {"eps": case.eps(1e-3)} if timm else running(case, keep=0.9)
    ddof = 0 if timm or not case.cls or alone else 1
    return claimed(case, new_layer("evo_b0", case, names, ddof=ddof, nonlinearity="v" in names.values(), **options))


def _evo_s0(case: Case) -> Claim:
    kept = {name for name in our_names(case) if name != "running_var"}  # which the port has and does not use
    names = {name: ours if name in kept else None for name, ours in our_names(case).items()}
    ddof = 0 if case.cls in TIMM or not case.cls or case.expect == "nan" else 1
    options = {"eps": case.eps(), "ddof": ddof, "nonlinearity": "v" in names.values()}
    note = "" if len(kept) == len(names) else "unused_buffer"

    def build(groups: int) -> Claim:
        return claimed(case, new_layer("evo_s0", case, names, num_groups=groups, **options), names, note=note)

    return with_groups(case, build)


def _port(case: Case) -> Claim:
    return (_evo_b0 if "B0" in case.meta["origin"]["cls"] else _evo_s0)(case)


LAYERS = {
    "TLU": _threshold,
    **dict.fromkeys(("FRN_self", "FilterResponseNormTlu2d", "frn"), _response),
    **dict.fromkeys((f"FilterResponseNorm{n}d" for n in (1, 2, 3)), _response),
    **dict.fromkeys(("EvoNormBO", "EvoNorm2dB0", "evonorm_b0"), _evo_b0),
    **dict.fromkeys(("EvoNormSO", "EvoNorm2dS0", "evonorm_s0"), _evo_s0),
    "EvoNorm2D": _port,
}
"""By class in the original code; by kind for formulas."""
