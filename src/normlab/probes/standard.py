"""What a normalization layer makes of its input before γ and β: x̂ = (x - μ) / √(σ² + eps)."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normlab.functional import Moments
from normlab.layers import (
    BNET,
    AttentiveNorm,
    BatchNorm,
    ChannelEquilibrium,
    EvoNormB0,
    FilterResponseNorm,
    LayerNorm,
    LpBatchNorm,
    MeanOnlyNorm,
    MixNorm,
    RepresentativeBatchNorm,
    StochasticWhiteningBatchNorm,
    VarianceNorm,
)
from normlab.probes.base import Target, wide
from normlab.probes.spread import centered
from normlab.surgery import Site
from normlab.surgery.statistics.borrow import by_batch
from normlab.surgery.statistics.kept import effective, kept

_OTHERWISE: dict[type[nn.Module], str] = {
    BNET: "its weight is a convolution kernel",
    EvoNormB0: "its divisor depends on the value",
    StochasticWhiteningBatchNorm: "it multiplies the channels by a matrix",
    ChannelEquilibrium: "it mixes the channels afterwards",
    LpBatchNorm: "its divisor is another norm",
    MeanOnlyNorm: "it divides by nothing",
    AttentiveNorm: "its weights are chosen for each example",
}


@dataclass(frozen=True)
class Standard:
    """An input, seen so that the sets of values that are normalized together span whole dimensions.

    Args:
        centered: the input less μ, if the layer centers.
        var: σ², or the mean square where it does not center; broadcasts to `centered`.
        eps: added to it.
        weight: γ, seen likewise; None where there is none.
    """

    centered: Tensor
    var: Tensor
    eps: float | Tensor
    weight: Tensor | None

    @property
    def xhat(self) -> Tensor:
        """The values that γ and β act on, in the shape of `centered`."""
        return self.centered * torch.rsqrt(self.var + self.eps)


def why_not(target: Target) -> str | None:
    """Why a layer does not compute γ x̂ + β with moments of one kind; None if it does."""
    if target.norm is None:
        return "it is no normalization layer"
    reason = next((why for cls, why in _OTHERWISE.items() if isinstance(target.module, cls)), None)
    if reason is not None:
        return reason
    if isinstance(target.module, (FilterResponseNorm, MixNorm)):
        return None
    if target.norm.fused or target.norm.kind == "other":
        return f"{type(target.module).__name__} is not known to be γ x̂ + β with moments of one kind"
    return None


def standard(target: Target, x: Tensor) -> Standard:
    """The moments that the layer normalizes x by: those of the batch, or the running ones, as its mode says.

    Each process sees its own part of the batch. BatchRenorm's and RBN's corrections, gates and noise are left out.

    Args:
        target: one that `why_not` does not refuse. x: its input.
    """
    assert target.norm is not None
    x, weight = wide(x), _weight(target)
    eps = _eps(target, x)
    if isinstance(target.module, MixNorm):
        return _by_mix(target.module, x, weight, eps)
    match target.norm.kind:
        case "batch" | "instance":
            found = _by_channel(target, x, weight, eps)
        case "group":
            found = _by_group(target.module, x, weight, eps)
        case _:
            found = _by_example(target, x, weight, eps)
    return found


def _weight(target: Target) -> Tensor | None:
    known = target.norm
    assert known is not None
    value = getattr(target.module, known.weight, None)  # of a frozen layer it is a buffer
    if isinstance(target.module, BatchNorm) and value is not None and target.module.inner_weight is not None:
        value = value * target.module.inner_weight
    return value.detach() if isinstance(value, Tensor) else None


def _eps(target: Target, x: Tensor) -> float | Tensor:
    module = target.module
    if isinstance(module, FilterResponseNorm) and module.learned_eps is not None:
        e = module.eps + module.learned_eps.detach().abs()
        return e.reshape(-1, *[1] * (x.dim() - 2))
    assert target.norm is not None
    eps = getattr(module, target.norm.eps, None)
    return float(eps) if isinstance(eps, (int, float)) else torch.finfo(x.dtype).eps  # nn.RMSNorm's None


def _by_mix(module: MixNorm, x: Tensor, weight: Tensor | None, eps: float | Tensor) -> Standard:
    """By the layer's own rule, which remembers nothing of it."""
    ones = [1] * (x.dim() - 2)
    dims = list(range(2, x.dim()))
    mean = x.mean(dims) if dims else x
    quiet = by_batch(Site("", module, "other", "weight", "bias"), sync=False) if module.training else nullcontext()
    with quiet:
        mixed = module.mix(Moments(mean, centered(x, dims)[1].reshape(mean.shape), x.shape[2:].numel()))
    mean, var = (value.reshape(*value.shape, *ones) for value in (mixed.mean, mixed.var))
    return Standard(x - mean, var, eps, None if weight is None else weight.reshape(-1, *ones))


def _by_channel(target: Target, x: Tensor, weight: Tensor | None, eps: float | Tensor) -> Standard:
    module, ones = target.module, [1] * (x.dim() - 2)
    if isinstance(module, RepresentativeBatchNorm) and module.center_weight is not None:
        means = x.flatten(2).mean(2) if ones else x
        x = x + (means * module.center_weight.detach().to(x.dtype)).reshape(*means.shape, *ones)
    if weight is not None:
        weight = weight.reshape(-1, *ones)
    running = _running(target, x)
    if running is not None:
        return Standard(x - running[0], running[1], eps, weight)
    instance = target.norm is not None and target.norm.kind == "instance"
    off, var = centered(x, [dim for dim in range(x.dim()) if dim != 1 and (dim or not instance)])
    return Standard(x if isinstance(module, VarianceNorm) else off, var, eps, weight)


def _running(target: Target, x: Tensor) -> tuple[Tensor, Tensor] | None:
    """Running mean and variance, if the layer normalizes by them."""
    module = target.module
    assert target.norm is not None
    if target.norm.frozen:
        stored = {name: module.get_buffer(name) for name in ("running_mean", "running_var")}
    else:
        keeps = kept(module)
        if keeps is None or module.training:
            return None
        held = {name: module.get_buffer(name) for name in keeps.statistics}
        stored = effective(keeps, held, getattr(module, "num_batches_tracked", None))
    shape = -1, *[1] * (x.dim() - 2)
    var = stored["running_var"].to(x).reshape(shape)
    mean = stored.get("running_mean")
    return torch.zeros_like(var) if mean is None else mean.to(x).reshape(shape), var


def _by_group(module: nn.Module, x: Tensor, weight: Tensor | None, eps: float | Tensor) -> Standard:
    groups = int(getattr(module, "num_groups", 1))
    x = x.unflatten(1, (groups, -1))
    if weight is not None:
        weight = weight.reshape(groups, -1, *[1] * (x.dim() - 3))
    return Standard(*centered(x, list(range(2, x.dim())), int(getattr(module, "ddof", 0))), eps, weight)


def _by_example(target: Target, x: Tensor, weight: Tensor | None, eps: float | Tensor) -> Standard:
    dims = _dims_of_example(target, x)
    if weight is not None and weight.dim() == 1 and target.channel == 1:
        weight = weight.reshape(-1, *[1] * (x.dim() - 2))
    assert target.norm is not None
    if target.norm.kind == "rms" or isinstance(target.module, FilterResponseNorm):
        square = x.square()
        return Standard(x, square.mean(dims, keepdim=True) if dims else square, eps, weight)
    return Standard(*centered(x, dims), eps, weight)


def _dims_of_example(target: Target, x: Tensor) -> list[int]:
    """Those that a layer normalizes over, which does so within each example."""
    module = target.module
    if target.channel == -1:
        shape = getattr(module, "normalized_shape", None)
        return list(range(x.dim() - (len(shape) if isinstance(shape, (tuple, list)) else 1), x.dim()))
    if isinstance(module, FilterResponseNorm):
        return list(range(2, x.dim()))
    # timm's and torchvision's layer norms of maps take the channels of one position
    return list(range(1, x.dim())) if isinstance(module, LayerNorm) else [1]
