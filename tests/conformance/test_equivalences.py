"""Norms that are special cases of one another agree, and so do ours and torch's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from normlab.layers import create
from tests.conformance.registry import on
from tests.conftest import TOLERANCE

PAIRS = torch.block_diag(*[torch.ones(2, 2)] * 3).int().tolist()
ONES, EYE = torch.ones(4, 4).int().tolist(), torch.eye(4).int().tolist()
HOT = 1e3  # a softmax of it has nothing left for the others
IN, LN, BN = (HOT, 0.0, 0.0), (0.0, HOT, 0.0), (0.0, 0.0, HOT)
A, B = {"weight": 1.7, "bias": -0.3}, {"weight": -0.4, "bias": 0.9}
INSTANCE, SAMPLE_FREE = "instance(affine=True)", "batch(track_running_stats=False)"

SAME = [
    ("group(num_groups=1)", A, "layer", A),
    ("group(num_groups=6)", A, INSTANCE, A),
    ("layer(spatial=(3, 5))", A, "layer", A),
    ("meta", A, INSTANCE, A),
    (f"meta(U={EYE})", A, INSTANCE, A),
    ("meta(U='ones')", A, SAMPLE_FREE, A),
    (f"meta(U={ONES})", A, SAMPLE_FREE, A),
    ("meta(V='ones')", A, "layer", A),
    (f"meta(V={PAIRS})", A, "group(num_groups=3)", A),
    (f"meta(U={ONES}, V='ones')", A, "meta(U='ones', V='ones')", A),
    *(
        (f"{name}({option})", {"mean_logits": kind, "var_logits": kind, **A}, spec, A)
        for name in ("switch", "sparse_switch")
        for option in ("", "track_running_stats=False")
        for kind, spec in ((IN, INSTANCE), (LN, "layer"), (BN, f"batch({option})"))
    ),
    ("switch(using_in=False)", {"mean_logits": (0.0, HOT), "var_logits": (0.0, HOT), **B}, "batch", B),
    ("switch(using_bn=False)", {"mean_logits": (HOT, 0.0), "var_logits": (HOT, 0.0), **B}, INSTANCE, B),
    ("switch(using_in=False, using_bn=False)", B, "layer", B),
    ("sparse_switch", {"mean_logits": (0.1, 0.3, 0.2), "var_logits": (0.9, 0.6, 0.7), "radius": 1.0},
     "switch", {"mean_logits": LN, "var_logits": IN}),
    ("rbn_minus", {"gate_bias": HOT, **A}, "batch", A),
    ("rbn_minus", {"gate_bias": 0.0, **A}, "batch", {"weight": A["weight"] / 2, "bias": A["bias"]}),
    ("iebn_minus", {"gate_bias": HOT, **A}, "batch", A),
    ("iebn_minus", {"gate_bias": 0.7, **A}, "rbn_minus", {"gate_bias": 0.7, **A}),
    ("iebn", {"gate_weight": 0.0, "gate_bias": 0.4, **A}, "iebn_minus", {"gate_bias": 0.4, **A}),
    ("rbn", {"center_weight": 0.0, "gate_weight": 0.8}, "rbn(center=False)", {"gate_weight": 0.8}),
    ("rbn(center=False)", {"gate_weight": 0.0, "gate_bias": 0.4}, "rbn_minus", {"gate_bias": 0.4}),
    ("batch(formulation='a1')", A, "batch", {"weight": 1.7, "bias": 1.7 * -0.3}),
    ("batch(formulation='a2')", {"inner_weight": 0.5, **A}, "batch", {"weight": 0.85, "bias": 1.7 * -0.3}),
    ("ghost", A, "batch", A),
    ("ghost(ghost_size=4, momentum=None)", A, "batch(momentum=None)", A),
    ("ghost(ghost_size=1, track_running_stats=False)", A, INSTANCE, A),
    ("ghost(ghost_size=2, track_running_stats=False)", A,
     "meta(U=[[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]])", A),
    ("batch_renorm(rmax=1.0, dmax=0.0)", A, "batch", A),
    ("attentive(num_affine=1, mode=6)", {"weights": 1.7, "biases": -0.3}, "batch", A),
    ("attentive(num_affine=3, mode=0)",
     {"weights": 1.7, "biases": -0.3, "attention.0.weight": 0.0, "attention.0.bias": -HOT}, "batch",
     {"weight": 0.0, "bias": 0.0}),
    ("attentive(num_affine=2, mode=4, backbone='group', num_groups=3)",
     {"weights": 1.7, "biases": -0.3, "attention.0.weight": 0.0, "attention.0.bias": 0.0}, "group(num_groups=3)", A),
    ("ilm(num_groups=3, key_group_size=2)", {"decode_weight.weight": 0.0, "decode_bias.weight": 0.0, **A},
     "group(num_groups=3, ddof=1)", {"weight": A["weight"] + 0.5, "bias": A["bias"]}),
]  # fmt: skip
"""A spec with values of its state, and another one; each number fills its parameter or buffer."""

TORCH = [
    ("batch", lambda rank: (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[rank - 2](6), (2, 3, 4, 5)),
    ("batch(momentum=None)", lambda rank: nn.BatchNorm2d(6, momentum=None), (4,)),
    ("batch(momentum=0.3, affine=False)", lambda rank: nn.BatchNorm3d(6, momentum=0.3, affine=False), (5,)),
    ("batch(track_running_stats=False)", lambda rank: nn.BatchNorm2d(6, track_running_stats=False), (4,)),
    ("group(num_groups=3)", lambda rank: nn.GroupNorm(3, 6), (2, 3, 4, 5)),
    ("group(num_groups=2, affine=False, eps=0.1)", lambda rank: nn.GroupNorm(2, 6, 0.1, affine=False), (4,)),
    ("instance", lambda rank: (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)[rank - 3](6), (3, 4, 5)),
    ("instance(affine=True, track_running_stats=True)",
     lambda rank: (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)[rank - 3](
         6, affine=True, track_running_stats=True), (3, 4, 5)),
    ("instance(momentum=0.5, track_running_stats=True)",
     lambda rank: nn.InstanceNorm2d(6, momentum=0.5, track_running_stats=True), (4,)),
    ("layer(spatial=(3, 5))", lambda rank: nn.LayerNorm([6, 3, 5]), (4,)),
    ("layer(spatial=(7,), bias=False)", lambda rank: nn.LayerNorm([6, 7], bias=False), (3,)),
    ("layer(spatial=())", lambda rank: nn.LayerNorm(6), (2,)),
]  # fmt: skip
SHAPES = {2: (4, 6), 3: (4, 6, 7), 4: (4, 6, 3, 5), 5: (4, 6, 3, 2, 5)}


def build(spec, state):
    layer = create(spec, num_features=6, dtype=torch.float64)
    own = {name: torch.as_tensor(value, dtype=torch.float64) for name, value in state.items()}
    filled = {name: value.expand(layer.state_dict()[name].shape) for name, value in own.items()}
    layer.load_state_dict(layer.state_dict() | filled)
    return layer


def assert_close(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=TOLERANCE[torch.float64] * max(1.0, b.abs().max().item()))


def assert_same_gradient(left, right, x):
    x, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, expected = left(x), right(other)
    assert_close(y, expected)
    up = torch.randn_like(y)
    y.backward(up)
    expected.backward(up)
    assert_close(x.grad, other.grad)


@pytest.mark.parametrize("backend", ["eager", "numba", None])
@pytest.mark.parametrize(
    ("spec", "state", "other", "other_state"), SAME, ids=[f"{case[0]} is {case[2]}" for case in SAME]
)
def test_special_cases_agree(spec, state, other, other_state, backend):
    left, right = build(spec, state), build(other, other_state)
    with on(backend):
        for training in (True, True, False):
            x = torch.randn(SHAPES[4]).double() * 2 + 1
            assert_same_gradient(left.train(training), right.train(training), x)
    shared = {"running_mean", "running_var", "num_batches_tracked"} & set(dict(left.named_buffers()))
    for name in shared & set(dict(right.named_buffers())):
        assert_close(left.get_buffer(name), right.get_buffer(name))


@pytest.mark.parametrize("backend", ["eager", "numba", None])
@pytest.mark.parametrize(
    ("spec", "rank", "module"),
    [pytest.param(s, rank, make, id=f"{s}-{rank}") for s, make, ranks in TORCH for rank in ranks],
)
def test_torchs_layers_agree_over_several_steps(spec, rank, module, backend):
    ours, theirs = create(spec, num_features=6, dtype=torch.float64), module(rank).double()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    ours.load_state_dict(theirs.state_dict())
    with on(backend):
        for training in (True, True, True, False):
            x = torch.randn(SHAPES[rank]).double() * 2 + 3
            assert_same_gradient(ours.train(training), theirs.train(training), x)
    for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert_close(own.grad, other.grad)
    for name, buffer in theirs.named_buffers():
        counts = name == "num_batches_tracked" and isinstance(theirs, nn.modules.instancenorm._InstanceNorm)
        if not counts:  # torch's instance norm has a counter, and never counts
            assert_close(ours.get_buffer(name), buffer)


@pytest.mark.parametrize("backend", ["eager", "numba", None])
def test_centring_and_then_dividing_is_batch_norm(backend):
    both = nn.Sequential(build("mean_only(bias=False)", {}), build("variance", A))
    with on(backend):
        assert_same_gradient(both, build("batch", A), torch.randn(SHAPES[4]).double() + 3)


@pytest.mark.parametrize("backend", ["eager", "numba", None])
def test_all_in_one_set_is_one_mean_and_one_variance(backend):
    x = torch.randn(SHAPES[4]).double() + 3
    with on(backend):
        y = build("meta(U='ones', V='ones')", A)(x)
    assert_close(y, A["weight"] * (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt() + A["bias"])


@pytest.mark.parametrize("backend", ["eager", "numba", None])
def test_response_norm_of_centred_maps_is_instance_norm(backend):
    x = torch.randn(SHAPES[4]).double()
    x = x - x.mean((2, 3), keepdim=True)
    with on(backend):
        y, expected = build("frn(tlu=False, eps=0.01)", A)(x), build("instance(affine=True, eps=0.01)", A)(x)
        assert_close(build("frn(eps=0.01)", {"threshold": 0.2, **A})(x), y.clamp(min=0.2))
    assert_close(y, expected)


@pytest.mark.parametrize("backend", ["eager", "numba", None])
def test_batch_renorms_corrections_are_not_differentiated(backend):
    x = torch.randn(SHAPES[4]).double() * 2 + 1
    layer = build("batch_renorm(rmax=9.0, dmax=9.0)", A)
    layer(torch.randn(SHAPES[4]).double())
    mean, std = layer.running_mean.clone(), (layer.running_var + layer.eps).sqrt()
    var, own = torch.var_mean(x, (0, 2, 3), correction=0)
    r, d = (var + layer.eps).sqrt() / std, (own - mean) / std
    constant = build("batch", {"weight": A["weight"] * r, "bias": A["bias"] + A["weight"] * d})
    with on(backend):
        assert_same_gradient(layer, constant, x)
