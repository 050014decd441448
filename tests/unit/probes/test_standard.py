"""x̂ as probes see it: γ x̂ + β has to be what the layer gives."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from normlab import probes as P
from normlab.layers import (
    BatchRenorm,
    IEBNMinus,
    InstanceEnhancementBatchNorm,
    NoisyBatchNorm,
    RBNMinus,
    RepresentativeBatchNorm,
)
from normlab.probes.standard import standard, why_not
from normlab.study.models import import_timm
from normlab.surgery import norm_type
from tests.conformance.registry import EXAMPLES

timm = import_timm()
from timm import layers as T  # noqa: E402 - import_timm makes it importable
from torchvision.models.convnext import LayerNorm2d  # noqa: E402
from torchvision.ops.misc import FrozenBatchNorm2d  # noqa: E402

GATED = (BatchRenorm, IEBNMinus, InstanceEnhancementBatchNorm, NoisyBatchNorm, RBNMinus, RepresentativeBatchNorm)
"""γ x̂ + β and something more."""
MAPS, TOKENS = (4, 6, 3, 5), (4, 5, 6)
OTHERS = {
    "BatchNorm1d": (nn.BatchNorm1d(6), (4, 6)), "BatchNorm3d": (nn.BatchNorm3d(6, affine=False), (2, 6, 3, 2, 2)),
    "untracked": (nn.BatchNorm2d(6, track_running_stats=False), MAPS), "GroupNorm": (nn.GroupNorm(3, 6), MAPS),
    "InstanceNorm": (nn.InstanceNorm2d(6, affine=True), MAPS), "LayerNorm": (nn.LayerNorm(6), TOKENS),
    "InstanceNorm tracked": (nn.InstanceNorm2d(6, affine=True, track_running_stats=True), MAPS),
    "LayerNorm 2": (nn.LayerNorm((5, 6)), TOKENS), "RMSNorm": (nn.RMSNorm(6), TOKENS),
    "RMSNorm eps": (nn.RMSNorm(6, eps=0.1), TOKENS), "SyncBatchNorm": (nn.SyncBatchNorm(6), MAPS),
    "timm BatchNormAct2d": (T.BatchNormAct2d(6, apply_act=False), MAPS), "timm LayerNorm2d": (T.LayerNorm2d(6), MAPS),
    "timm GroupNorm1": (T.GroupNorm1(6), MAPS), "timm RmsNorm2d": (T.RmsNorm2d(6), MAPS),
    "timm RmsNorm": (T.RmsNorm(6), TOKENS), "torchvision LayerNorm2d": (LayerNorm2d(6), MAPS),
    "FrozenBatchNorm2d": (FrozenBatchNorm2d(6), MAPS),
    "timm GroupNormAct": (T.GroupNormAct(6, 3, apply_act=False), MAPS),
}  # fmt: skip


def rebuilt(layer, x):
    target = P.Target("", layer, norm_type(layer))
    found = standard(target, x)
    y = found.xhat if found.weight is None else found.xhat * found.weight
    y = y.reshape(x.shape)
    bias = getattr(layer, target.norm.bias, None)
    if bias is not None:
        last = target.channel == -1 or bias.dim() > 1
        y = y + (bias if last else bias.reshape(-1, *[1] * (x.dim() - 2)))
    return y


def randomize(layer):
    with torch.no_grad():
        for value in (*layer.parameters(), *layer.buffers()):
            if value.is_floating_point():
                value.copy_(torch.rand_like(value) + 0.5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_registered_layers(example, training):
    layer = example.layer(torch.float64)
    layer.train(training)
    target = P.Target("", layer, norm_type(layer))
    reason = why_not(target)
    if reason is not None:
        assert example.name in {
            "attentive", "bnet", "equilibrium", "evo_b0", "evo_s0", "ilm", "lp", "mean_only", "whitening"
        }  # fmt: skip
        return
    x = example.fitting(layer)
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    ours = rebuilt(layer, x)
    assert all(torch.equal(value, state[name]) for name, value in layer.state_dict().items())
    if isinstance(layer, GATED):
        assert ours.isfinite().all()
        return
    if getattr(layer, "formulation", "standard") != "standard" and layer.bias is not None:  # γ (α x̂ + β)
        layer.bias.data /= layer.weight
    y = layer(x)
    if getattr(layer, "threshold", None) is not None:
        ours = torch.maximum(ours, layer.threshold.reshape(-1, *[1] * (x.dim() - 2)))
    ours = ours.relu() if layer.activation == "relu" else ours
    torch.testing.assert_close(ours, y)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", OTHERS)
def test_layers_of_other_libraries(name, training):
    layer, shape = OTHERS[name]
    layer = layer.double().train(training)
    randomize(layer)
    if name == "SyncBatchNorm" and training:  # which runs on GPUs
        layer = nn.BatchNorm2d(6).double()
    x = torch.randn(shape, dtype=torch.float64) + 0.3
    torch.testing.assert_close(rebuilt(layer, x), layer(x))


def test_the_correction_of_rbn_is_part_of_its_input():
    layer = RepresentativeBatchNorm(6, dtype=torch.float64)
    randomize(layer)
    layer.gate_weight.data.zero_()
    layer.gate_bias.data.fill_(50)  # an open gate
    x = torch.randn(MAPS, dtype=torch.float64)
    torch.testing.assert_close(rebuilt(layer, x), layer(x))


def test_layers_in_bfloat16_are_measured_in_float32():
    layer = nn.BatchNorm2d(6)
    x = torch.randn(MAPS).bfloat16()
    found = standard(P.Target("", layer, norm_type(layer)), x)
    assert found.xhat.dtype == torch.float32
    torch.testing.assert_close(found.var.flatten(), x.float().var((0, 2, 3), correction=0))
