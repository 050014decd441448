"""What the scales of a model's normalization layers do to the gradients, on one batch."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normlab.functional.backends import stats_dtype
from normlab.surgery import Site, affine_params, norm_sites, norm_type
from normlab.surgery.trial import Sample, outputs


@dataclass(frozen=True)
class LayerFactor:
    """One normalization layer on one batch, averaged over what it normalizes separately.

    Args:
        name: of the layer, kind: of its moments.
        scale: mean |γ|; 1 where it has no weight.
        var: mean σ² of its input, or mean square where the layer does not center.
        eps: added to it.
        factor: mean |γ| / √(σ² + eps), which all gradients are multiplied by on their way back through the layer.
    """

    name: str
    kind: str
    scale: float
    var: float
    eps: float
    factor: float


def gradient_factors(model: nn.Module, batch: Sample) -> tuple[list[LayerFactor], list[str]]:
    """The factor of every normalization layer that the batch reaches, in the order in which it does.

        ∂L/∂x = [γ / √(σ² + eps)] f,   f = g - mean g - x̂ mean(g x̂)

    The model runs once in training mode; buffers, flags and random generators are as before afterwards. A layer that
    is used twice shows its first use.

    Returns:
        The layers, and the names of those that were not reached or are no γ x̂ + β with moments of one kind.

    Source: Davis and Frank, arXiv:2110.13989, Eq. 12.
    """
    sites = norm_sites(model)
    found: dict[str, LayerFactor] = {}
    with ExitStack() as hooks:
        for site in sites:
            hooks.callback(site.module.register_forward_pre_hook(_Watch(site, found), prepend=True).remove)
        outputs(model, batch, training=True)
    return list(found.values()), [site.name for site in sites if site.name not in found]


class _Watch:
    """Forward pre-hook that measures what reaches a layer."""

    def __init__(self, site: Site, found: dict[str, LayerFactor]) -> None:
        self.site, self.found = site, found

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        x = args[0] if args else None
        if self.site.name in self.found or not isinstance(x, Tensor) or x.dim() < 2 or not x.numel():
            return
        known = norm_type(module)
        assert known is not None
        var = variances(module, x.detach())
        if var is None:
            return
        eps = getattr(module, known.eps, None)
        eps = float(eps) if isinstance(eps, (int, float)) else torch.finfo(x.dtype).eps  # nn.RMSNorm's None
        weight = affine_params(module).weight if not known.frozen else getattr(module, known.weight, None)
        scale = torch.ones(()) if weight is None else weight.detach().abs().to(var.dtype)
        rstd = torch.rsqrt(var + eps)
        per_channel = known.kind in ("batch", "instance")
        factor = (scale * rstd).mean() if per_channel else scale.mean() * rstd.mean()
        self.found[self.site.name] = LayerFactor(
            self.site.name, self.site.kind, float(scale.mean()), float(var.mean()), eps, float(factor)
        )


def variances(module: nn.Module, x: Tensor) -> Tensor | None:
    """The biased variances that a layer divides x by, in float32 or wider: [C], [N, C] or one for each group.

    None for a layer whose kind tells no moments.
    """
    known = norm_type(module)
    assert known is not None
    x = x.to(stats_dtype(x.dtype))
    last = known.features == "last"
    match known.kind:
        case "batch":
            return x.var([d for d in range(x.dim()) if d != 1], correction=0)
        case "instance":
            return x.flatten(2).var(2, correction=0) if x.dim() > 2 else None
        case "group":
            groups = int(getattr(module, "num_groups", 1))
            return x.reshape(len(x), groups, -1).var(2, correction=0)
        case "layer" | "rms":
            dims = _own_dims(module, x) if last else list(range(1, x.dim())) if _whole_example(module) else [1]
            return x.square().mean(dims) if known.kind == "rms" else x.var(dims, correction=0)
        case _:
            return None


def _own_dims(module: nn.Module, x: Tensor) -> list[int]:
    """The dimensions that a layer with features last normalizes over."""
    shape = getattr(module, "normalized_shape", None)
    count = len(shape) if isinstance(shape, tuple) else 1
    return list(range(x.dim() - count, x.dim()))


def _whole_example(module: nn.Module) -> bool:
    """normlab's LayerNorm takes a whole example, timm's and torchvision's 2-d ones the channels of one position."""
    return not isinstance(module, nn.LayerNorm) and hasattr(module, "num_features")
