"""What a user should know of one change, in words."""

from __future__ import annotations

from torch import nn

from normlab.surgery.conversion.carry import Handover
from normlab.surgery.known import NormType
from normlab.surgery.sites import norm_type


def remarks(old: nn.Module, new: nn.Module, known: NormType, handover: Handover, after: tuple[str, ...]) -> list[str]:
    """Sentences about what is lost, doubled, or has to be done after the change."""
    own = norm_type(new)
    said = list(handover.remarks)
    for name in (known.eps, "momentum"):
        had, has = getattr(old, name, None), getattr(new, name, None)
        if isinstance(had, float) and isinstance(has, float) and had != has and not hasattr(new, "momentum_convention"):
            said.append(f"{name} {has:g} instead of {had:g}")
    if known.fused:
        said.append("the activation inside the old layer went with it")
    if "act" in after and (getattr(new, "nonlinearity", False) or getattr(new, "tlu", False)):
        argument = "nonlinearity=False" if hasattr(new, "nonlinearity") else "tlu=False"
        said.append(f"act follows the activation inside the new layer, which {argument} leaves out")
    if own is None:
        return said
    if "running_var" in handover.dropped:
        said.append("running statistics are dropped: finetune weights that were trained with them")
    if own.kind == "batch" and {"running_mean", "running_var"} & set(handover.added):
        said.append("uncalibrated: the running statistics are those of a new layer, recalibrate before eval mode")
    if known.kind in ("layer", "rms") and own.kind != "batch" and type(new).__module__.startswith("normlab."):
        said.append(
            "moments over all positions of an example, where the old layer took each position alone: "
            "padding and later positions are among them, so that a causal model is causal no longer"
        )
    return said
