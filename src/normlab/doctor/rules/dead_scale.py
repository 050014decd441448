"""Scales that are 0 and that nothing trains."""

from __future__ import annotations

import torch
from torch import Tensor

from normlab.doctor.base import Evidence, rule
from normlab.doctor.case import Case
from normlab.doctor.layers import count, names, trained_affine
from normlab.recipes.verify import groups_of
from normlab.surgery import Site


@rule(
    "NL032",
    "dead-scale",
    kind="static",
    level="error",
    why="timm starts the last γ of each residual branch at 0; frozen there, or left out of the optimizer, the branch "
    "gives 0 forever, and its other weights get no gradient",
    fix="normlab.unfreeze(model); or timm.create_model(..., zero_init_last=False), or load the weights first",
    thread="princeton-vl/RAFT-Stereo#58",
)
def dead_scale(case: Case) -> Evidence | None:
    """Norms whose weight and bias are all 0, and are not trained."""
    held = None if case.optimizer is None else {id(p) for g in groups_of(case.optimizer) for p in g["params"]}
    found = [site for site in case.sites if _is_dead(site, held)]
    if not found:
        return None
    text = f"nothing trains {len(found)} of {count(len(case.sites), 'norm')}, which multiply by 0 and add 0"
    frozen = any(not trained_affine(site) for site in found)
    fix = None if frozen else "give their parameters to the optimizer: normlab.recipe(...).param_groups(model, lr=...)"
    return Evidence(text, names(found), {"norms": len(found), "of": len(case.sites)}, fix)


def _is_dead(site: Site, held: set[int] | None) -> bool:
    weight, bias = (getattr(site.module, name, None) for name in (site.weight, site.bias))
    if not isinstance(weight, Tensor) or weight.device.type == "meta" or not weight.numel() or weight.any():
        return False
    both = [weight, bias] if isinstance(bias, Tensor) else [weight]
    if isinstance(bias, Tensor) and bool(torch.any(bias)):
        return False
    return not any(value.requires_grad and (held is None or id(value) in held) for value in both)
