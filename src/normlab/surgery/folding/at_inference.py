"""What a normalization layer is in eval mode: a map of channels that is the same for every input, or more than that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.nn.modules.instancenorm import _InstanceNorm  # pyright: ignore[reportPrivateUsage]

from normlab.functional import Moments
from normlab.layers import (
    BNET,
    BatchLayer,
    BatchNorm,
    ChannelEquilibrium,
    EvoNormB0,
    EvoNormS0,
    InstanceNorm,
    Layer,
    LpBatchNorm,
    NoisyBatchNorm,
    Norm,
    StochasticWhiteningBatchNorm,
)
from normlab.surgery.sites import norm_type
from normlab.surgery.statistics.borrow import author_of_forward, trusted
from normlab.surgery.statistics.kept import wide

BY_EXAMPLE = "it normalizes each example by the example's own moments"
NO_STATISTICS = "it keeps no running statistics, and normalizes by its input in eval mode too"
NONLINEAR = "its activation is part of its formula"
UNKNOWN = "its forward pass is its own, and not known to be affine"


@dataclass(frozen=True)
class ChannelMap:
    """y = scale·x + shift at every position.

    Args:
        scale: [C], or a matrix [C, C]; float64, as shift: [C].
    """

    scale: Tensor
    shift: Tensor


@torch.no_grad()
def at_inference(module: nn.Module) -> ChannelMap | str:
    """What a norm does in eval mode, what follows it inside (an activation) apart; or why it is no map of channels."""
    known = norm_type(module)
    assert known is not None
    if isinstance(module, Layer):
        return _of_layer(module)
    if known.fused or known.kind in ("group", "layer", "rms"):
        return NONLINEAR if known.fused else BY_EXAMPLE
    standard = known.frozen or isinstance(module, (_BatchNorm, _InstanceNorm))
    if not (standard and trusted(module)):
        return UNKNOWN
    mean, var = getattr(module, "running_mean", None), getattr(module, "running_var", None)
    if not isinstance(mean, Tensor) or not isinstance(var, Tensor):
        return BY_EXAMPLE if known.kind == "instance" else NO_STATISTICS
    weight, bias = getattr(module, known.weight, None), getattr(module, known.bias, None)
    return _standardized(mean, var, weight, bias, float(module.eps))  # pyright: ignore[reportArgumentType]


def _standardized(mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> ChannelMap:
    scale = (wide(var) + eps).rsqrt()
    if weight is not None:
        scale = scale * wide(weight)
    shift = -wide(mean) * scale
    return ChannelMap(scale, shift if bias is None else shift + wide(bias))


def _of_layer(layer: Layer) -> ChannelMap | str:
    if author_of_forward(layer) != "normlab":
        return UNKNOWN
    if isinstance(layer, (EvoNormB0, EvoNormS0)):
        return NONLINEAR if layer.v is not None else _scaled(torch.ones(layer.num_features), layer.weight, layer.bias)
    if not isinstance(layer, BatchLayer) or not layer.track_running_stats:
        by_batch = isinstance(layer, BatchLayer) and not isinstance(layer, InstanceNorm)
        return NO_STATISTICS if by_batch else BY_EXAMPLE
    make = next((make for cls, make in _MAPS.items() if isinstance(layer, cls)), None)
    if make is None:
        return _tried(layer) if isinstance(layer, Norm) else UNKNOWN
    return make(layer)


def _plain(layer: Any) -> ChannelMap:
    return _standardized(*_moments(layer), layer.weight, layer.bias, layer.eps)


def _of_bnet(layer: BNET) -> ChannelMap | str:
    if layer.weight is not None and layer.kernel_size > 1:
        return "a convolution is part of it, whose border is the mean of the channel"
    weight = None if layer.weight is None else layer.weight.flatten()
    return _standardized(*_moments(layer), weight, layer.bias, layer.eps)


def _of_lp(layer: LpBatchNorm) -> ChannelMap:
    scale = (wide(layer.running("running_norm")) + layer.eps).reciprocal()
    return _scaled(scale, layer.weight, layer.bias, wide(layer.running("running_mean")))


def _moments(layer: BatchLayer) -> tuple[Tensor, Tensor]:
    return layer.running("running_mean"), layer.running("running_var")


def _scaled(scale: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor | None = None) -> ChannelMap:
    """weight · scale · (x - mean) + bias."""
    scale = wide(scale)
    if weight is not None:
        scale = scale.to(weight.device) * wide(weight)
    shift = torch.zeros_like(scale) if mean is None else -mean * scale
    return ChannelMap(scale, shift if bias is None else shift + wide(bias))


def _of_batch_norm(layer: BatchNorm) -> ChannelMap:
    """a1 and a2 multiply the bias by the weight as well, and a2 the scale by `inner_weight`."""
    weight, bias = layer.weight, layer.bias
    if layer.formulation != "standard" and weight is not None:
        bias = None if bias is None else wide(weight) * wide(bias)
        weight = wide(weight) if layer.inner_weight is None else wide(weight) * wide(layer.inner_weight)
    return _standardized(*_moments(layer), weight, bias, layer.eps)


def _of_whitening(layer: StochasticWhiteningBatchNorm) -> ChannelMap:
    plain = _standardized(*_moments(layer), None, None, layer.eps)
    matrix = wide(layer.whitening)
    if layer.weight is not None:
        matrix = wide(layer.weight)[:, None] * matrix
    shift = matrix @ plain.shift
    return ChannelMap(matrix * plain.scale, shift if layer.bias is None else shift + wide(layer.bias))


def _tried(layer: Norm) -> ChannelMap | str:
    """Scale and shift, if they are the same for all examples, whatever the examples' moments."""
    like = next(buffer for buffer in layer.buffers(recurse=False) if buffer.is_floating_point())
    generator = torch.Generator().manual_seed(0)
    found: list[Tensor] = []
    for size in (1.0, 100.0):
        mean, var = (torch.rand(2, layer.num_features, generator=generator).to(like) * size for _ in range(2))
        scale, shift = layer.affine_map(Moments(mean, var, 9))
        found += [*scale.expand(2, layer.num_features), *shift.expand(2, layer.num_features)]
    scale, _, shift, _, *_ = found
    same = all(torch.equal(a, b) for a, b in zip(found, [scale, scale, shift, shift] * 2, strict=True))
    return ChannelMap(wide(scale), wide(shift)) if same else "its scale and shift depend on each example's own moments"


_MAPS: dict[type[Layer], Callable[[Any], ChannelMap | str]] = {
    BatchNorm: _of_batch_norm,
    InstanceNorm: _plain,
    NoisyBatchNorm: _plain,
    BNET: _of_bnet,
    LpBatchNorm: _of_lp,
    StochasticWhiteningBatchNorm: _of_whitening,
    ChannelEquilibrium: lambda _: "it weights the channels of each example by the example's own variances",
}
"""Those that are more than `affine_map`, which can be tried."""
