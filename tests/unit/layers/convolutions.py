"""What the tests of convolutions try: the example specs of the oracles, on one shape."""

from __future__ import annotations

import importlib

import torch
from torch import nn

from normlab.layers.base import CONVS
from normlab.layers.conv_norm import ConvNorm
from normlab.layers.scaled_weight_standardized import ScaledWeightStandardizedConv2d
from normlab.layers.weight_centered import WeightCenteredConv2d
from normlab.layers.weight_norm import WeightNormConv2d
from normlab.layers.weight_standardized import WeightStandardizedConv2d

KINDS = (
    ConvNorm,
    ScaledWeightStandardizedConv2d,
    WeightCenteredConv2d,
    WeightNormConv2d,
    WeightStandardizedConv2d,
)  # all that CONVS holds
CENTRED = [WeightCenteredConv2d, WeightStandardizedConv2d, ScaledWeightStandardizedConv2d]
SHAPE = {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "padding": 1}
ORACLES = {name: importlib.import_module(f"tests.oracles.{name}") for name in CONVS}
SPECS = [spec for oracle in ORACLES.values() for spec in oracle.EXAMPLES]
KERNELS = [spec for spec in SPECS if not spec.startswith("conv_norm")]  # a function of the weight alone


def example(spec: str, **options) -> nn.Module:
    """A layer none of whose parameters is at a special value."""
    layer = CONVS.create(spec, **SHAPE, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.rand_like(parameter), alpha=0.3)
    return layer
