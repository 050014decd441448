"""What our layers are measured against: torch's, timm's, and formulas composed as the authors' codes do it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normlab.errors import Unavailable
from normlab.study.models import import_timm


class ComposedSwitch(nn.Module):
    """Switchable Norm over x [N, C, H·W], one operation after another, as the authors' code has it."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(1, c, 1, 1)), nn.Parameter(torch.zeros(1, c, 1, 1))
        self.mean_weight, self.var_weight = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        flat = x.reshape(n, c, -1)
        mean_in, var_in = flat.mean(-1, keepdim=True), flat.var(-1, keepdim=True)
        second = var_in + mean_in**2
        mean_ln, mean_bn = mean_in.mean(1, keepdim=True), mean_in.mean(0, keepdim=True)
        var_ln = second.mean(1, keepdim=True) - mean_ln**2
        var_bn = second.mean(0, keepdim=True) - mean_bn**2
        p, q = self.mean_weight.softmax(0), self.var_weight.softmax(0)
        mean = p[0] * mean_in + p[1] * mean_ln + p[2] * mean_bn
        var = q[0] * var_in + q[1] * var_ln + q[2] * var_bn
        flat = (flat - mean) / (var + 1e-5).sqrt()
        return flat.reshape(n, c, h, w) * self.weight + self.bias


class ComposedRepresentative(nn.BatchNorm2d):
    """RBN around torch's BatchNorm."""

    def __init__(self, c: int) -> None:
        super().__init__(c, affine=False)
        self.gamma = nn.Parameter(torch.ones(1, c, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, c, 1, 1))
        self.center = nn.Parameter(torch.zeros(1, c, 1, 1))
        self.gate, self.gate_bias = nn.Parameter(torch.zeros(1, c, 1, 1)), nn.Parameter(torch.ones(1, c, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x + self.center * F.adaptive_avg_pool2d(x, 1))
        scale = torch.sigmoid(self.gate * F.adaptive_avg_pool2d(x, 1) + self.gate_bias)
        return x * scale * self.gamma + self.beta


class ComposedInstanceEnhancement(nn.BatchNorm2d):
    """IEBN around torch's BatchNorm."""

    def __init__(self, c: int) -> None:
        super().__init__(c, affine=False)
        self.gamma = nn.Parameter(torch.ones(1, c, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, c, 1, 1))
        self.gate, self.gate_bias = nn.Parameter(torch.zeros(1, c, 1, 1)), nn.Parameter(-torch.ones(1, c, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gate * F.adaptive_avg_pool2d(x, 1) + self.gate_bias)
        return super().forward(x) * (self.gamma * gate) + self.beta


def layers(c: int) -> Iterator[tuple[str, nn.Module]]:
    """(name, layer) for C channels; timm's where timm can be imported."""
    yield "torch.BatchNorm2d", nn.BatchNorm2d(c)
    yield "torch.GroupNorm(8)", nn.GroupNorm(8, c)
    yield "torch.GroupNorm(1)", nn.GroupNorm(1, c)
    yield "torch.InstanceNorm2d", nn.InstanceNorm2d(c, affine=True)
    yield "composed.switch", ComposedSwitch(c)
    yield "composed.rbn", ComposedRepresentative(c)
    yield "composed.iebn", ComposedInstanceEnhancement(c)
    yield from _timm(c)


def _timm(c: int) -> Iterator[tuple[str, nn.Module]]:
    try:
        layers = import_timm().layers
    except Unavailable as error:
        print(f"without timm's layers: {error}")
        return
    yield "timm.EvoNorm2dB0", layers.EvoNorm2dB0(c)
    yield "timm.EvoNorm2dS0", layers.EvoNorm2dS0(c, groups=8)
    yield "timm.FilterResponseNormTlu2d", layers.FilterResponseNormTlu2d(c)
