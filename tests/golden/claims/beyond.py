"""Norms that do more than scale and shift each map."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.golden import Case
from tests.golden.claim import Claim, claimed, new_layer, our_names
from tests.golden.claims.batch import running


def _bnet(case: Case) -> Claim:
    kernel = case.by_role("param").get("r_kernel", torch.empty(1, 1, 3, 3))
    return claimed(case, new_layer("bnet", case, kernel_size=kernel.shape[-1], dims=kernel.dim() - 2, **running(case)))


def _lp(case: Case) -> Claim:
    """p is text, "inf" among them."""
    layer = new_layer("lp", case, p=float(case.told("p")), centred=case.told("centred", False), **running(case))
    return claimed(case, layer)


def _noisy(case: Case) -> Claim:
    """With the noise that was drawn, in training; the numbers it was drawn by are only in its shape."""
    layer: Any = new_layer("noisy", case, **running(case))
    scale, shift = case.tensor("noise_scale"), case.tensor("noise_shift")

    def noise(x: Tensor) -> tuple[Tensor, Tensor]:
        return scale, shift

    layer.noise = noise
    return claimed(case, layer, apart=("noise_scale", "noise_shift", "noise_mu", "noise_sigma"))


def _whitening(case: Case) -> Claim:
    """All statistics are kept for the greater part, variances biased."""
    own = {"criterion": case.told("criterion", "kl"), "alpha": case.told("alpha", 1e-5)}
    options = {**running(case, keep=0.95), "eps": case.eps(1e-8)}
    return claimed(case, new_layer("whitening", case, **own, **options))


PARTS = {
    "x_weight": "blend",
    "AR.fc.0.weight": "squeeze.weight",
    "AR.fc.1.weight": "attention_weight",
    "AR.fc.1.bias": "attention_bias",
    "AR.fc.3.weight": "excite.weight",
}
"""Channel Equilibrium's names → ours."""


def _equilibrium(case: Case) -> Claim:
    """The block without the BatchNorm before it; its untrained eval divides by the 0 that the scale starts with."""
    names = our_names(case) | PARTS
    told = {"reduction": "reduction", "group_size": "num_channels", "iterations": "T"}
    own = {ours: case.told(theirs) for ours, theirs in told.items() if case.told(theirs) is not None}
    layer = new_layer("equilibrium", case, names, standardize=False, affine=False, **own, **running(case))
    array = "y_eval_untrained"
    wanted = array not in case.arrays or np.isfinite(case.arrays[array]).all()
    return claimed(case, layer, names, apart=() if wanted else (array,), note="" if wanted else "untrained")


LAYERS = {
    "BNET2d": _bnet,
    "CE": _equilibrium,
    "lp_bn": _lp,
    "noisy_bn": _noisy,
    "swbn": _whitening,
}
"""By class in the original code; by kind for formulas."""
