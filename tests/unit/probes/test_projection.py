"""The backward pass as a projection."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from normlab import probes as P
from normlab.errors import SpecError
from normlab.layers import (
    BatchNorm,
    EvoNormS0,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    MetaNorm,
)
from tests.conformance.registry import EXAMPLES

MAPS = (4, 6, 3, 2)


BLOCKS = torch.block_diag(torch.ones(2, 2), torch.ones(1, 1), torch.ones(1, 1))


LAYERS = {
    "batch": (BatchNorm(6), 6), "torch batch": (nn.BatchNorm2d(6), 6), "instance": (InstanceNorm(6), 24),
    "group": (GroupNorm(6, 3), 12), "torch group": (nn.GroupNorm(2, 6), 8), "layer": (LayerNorm(6), 4),
    "meta batch": (MetaNorm(6, U="ones"), 6), "meta all": (MetaNorm(6, U="ones", V="ones"), 1),
    "meta blocks": (MetaNorm(6, U=BLOCKS, V=torch.block_diag(torch.ones(4, 4), torch.ones(2, 2))), 6),
    "torch layer of maps": (nn.GroupNorm(1, 6), 4),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("eps", [1e-12, 0.5])
def test_the_backward_pass_is_a_projection(name, eps):
    layer, pools = LAYERS[name]
    layer = layer.double()
    layer.eps = eps
    if layer.weight is not None:
        nn.init.normal_(layer.weight)
    x, dy = torch.randn(2, *MAPS, dtype=torch.float64)
    buffers = {key: value.clone() for key, value in layer.named_buffers()}
    found = P.backward_projection(layer, x, dy)
    assert found.pools == pools
    assert found.error < 1e-10
    assert found.along_ones < 1e-10
    if eps < 1e-6:
        assert max(found.along_xhat, found.idempotence) < 1e-9
    else:
        assert min(found.along_xhat, found.idempotence) > 1e-4  # eps/σ² lets P be no projection
    assert all(torch.equal(value, buffers[key]) for key, value in layer.named_buffers())


def test_what_is_no_projection_is_refused():
    x = torch.randn(4, 6, 3, 2)
    overlapping = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1], [1, 0, 0, 1]])
    for layer, match in (
        (MetaNorm(6, U=overlapping), "U is not made of blocks"),
        (EvoNormS0(6, num_groups=2), "does not give γ x̂"),
        (nn.BatchNorm2d(6).eval(), "BatchNorm2d in eval mode"),
        (nn.InstanceNorm2d(6, track_running_stats=True).eval(), "InstanceNorm2d in eval mode"),
    ):
        with pytest.raises(SpecError, match=match):
            P.backward_projection(layer, x, x)


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_registered_layers_follow_the_formula_or_are_refused(example):
    layer = example.layer(torch.float64)
    x = example.fitting(layer)
    try:
        found = P.backward_projection(layer, x, torch.randn_like(x))
    except SpecError:
        assert example.name not in {"batch", "group", "instance", "layer", "meta"} or any(
            option in example.spec for option in ("activation", "ddof", "[[")
        )
    else:
        assert found.error < 1e-10
