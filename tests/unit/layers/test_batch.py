"""BatchNorm keeps torch's promises, and its formulations are those of the paper."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import normlab
from normlab.errors import SpecError, UnknownName
from normlab.layers import NORMS
from normlab.layers.batch import FORMULATIONS, BatchNorm
from tests.conftest import TOLERANCE

SHAPES = {2: (6, 3), 3: (4, 3, 5), 4: (4, 3, 5, 2), 5: (2, 3, 4, 2, 3)}
TORCH = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
OPTIONS = [
    {},
    {"momentum": None},
    {"affine": False},
    {"track_running_stats": False},
    {"bias": False},
    {"eps": 1e-3, "momentum": 0.5},
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("rank", SHAPES)
def test_equals_torch_bit_for_bit(rank, options, dtype):
    ours, theirs = BatchNorm(3, dtype=dtype, **options), TORCH[rank](3, dtype=dtype, **options)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    ours.load_state_dict(theirs.state_dict())
    for _ in range(3):
        batch = (torch.randn(SHAPES[rank]) * 2 + 3).to(dtype)
        ours_x, theirs_x = batch.clone().requires_grad_(), batch.clone().requires_grad_()
        y, expected = ours(ours_x), theirs(theirs_x)
        torch.testing.assert_close(y, expected, rtol=0, atol=0)
        up = torch.randn_like(y)
        y.backward(up)
        expected.backward(up)
        torch.testing.assert_close(ours_x.grad, theirs_x.grad, rtol=0, atol=0)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=0)
    for name, buffer in theirs.named_buffers():
        torch.testing.assert_close(ours.get_buffer(name), buffer, rtol=0, atol=0)
    torch.testing.assert_close(ours.eval()(batch), theirs.eval()(batch), rtol=0, atol=0)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("formulation", FORMULATIONS)
def test_formulation_is_its_equation(formulation, dtype, training):
    layer = BatchNorm(3, dtype=dtype, formulation=formulation).train(training)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    x = torch.randn(8, 3, 5, 7).to(dtype)
    plain = BatchNorm(3, affine=False, dtype=torch.float64).train(training)
    gamma, beta = (p.detach().double().view(3, 1, 1) for p in (layer.weight, layer.bias))
    alpha = 1.0 if layer.inner_weight is None else layer.inner_weight.detach().double().view(3, 1, 1)
    xhat = plain(x.double())
    expected = {
        "standard": gamma * xhat + beta,
        "a1": gamma * (xhat + beta),
        "a2": gamma * (alpha * xhat + beta),
    }[formulation]
    size = expected.abs().max().item()
    torch.testing.assert_close(layer(x).double(), expected, rtol=0, atol=TOLERANCE[dtype] * size)


@pytest.mark.parametrize("formulation", FORMULATIONS)
def test_gradients_are_those_of_finite_differences(formulation):
    layer = BatchNorm(3, dtype=torch.float64, formulation=formulation)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    names, values = zip(*layer.named_parameters(), strict=True)

    def call(x, *parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), x)

    layer.eval()  # one set of moments: gradcheck calls more than once
    assert torch.autograd.gradcheck(call, (torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True), *values))


@pytest.mark.parametrize("options", [{}, {"scale": 0.1}, {"formulation": "a2", "scale": 0.5}, *OPTIONS[1:]], ids=str)
def test_repr_evaluates_back(options):
    layer = BatchNorm(3, **options)
    again = eval(repr(layer))
    assert repr(again) == repr(layer)
    assert again.state_dict().keys() == layer.state_dict().keys()
    for a, b in zip(again.parameters(), layer.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))], ids=["copy", "pickle"]
)
def test_copies_are_the_same_layer(copied):
    layer = BatchNorm(3, scale=0.1, formulation="a2")
    layer(torch.randn(4, 3))
    again = copied(layer)
    x = torch.randn(4, 3)
    assert torch.equal(again(x), layer(x))
    assert repr(again) == repr(layer)


def test_reset_parameters_repairs_a_layer_from_the_meta_device():
    layer = BatchNorm(3, scale=0.1, formulation="a2", device="meta").to_empty(device="cpu")
    layer.reset_parameters()
    for name, value in BatchNorm(3, scale=0.1, formulation="a2").state_dict().items():
        assert torch.equal(layer.state_dict()[name], value)


def test_reset_running_stats_leaves_the_parameters():
    layer = BatchNorm(3, scale=0.1)
    layer(torch.randn(4, 3) + 5)
    nn.init.constant_(layer.weight, 7.0)
    layer.reset_running_stats()
    assert layer.running_mean.eq(0).all()
    assert layer.running_var.eq(1).all()
    assert layer.num_batches_tracked == 0
    assert layer.weight.eq(7).all()


@pytest.mark.parametrize("formulation", FORMULATIONS)
def test_channels_last_and_dtype_are_kept(formulation):
    x = torch.randn(4, 3, 5, 6).to(memory_format=torch.channels_last)
    y = BatchNorm(3, formulation=formulation)(x)
    assert y.stride() == x.stride()
    assert y.dtype == x.dtype


@pytest.mark.parametrize("formulation", FORMULATIONS)
def test_nothing_is_called_gamma_or_beta(formulation):
    assert not any(
        word in key for key in BatchNorm(3, formulation=formulation).state_dict() for word in ("gamma", "beta")
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0.0}, "scale=0.0 should be a number > 0"),
        ({"scale": float("nan")}, "scale=nan should be a number > 0"),
        ({"formulation": "a3"}, "unknown formulation 'a3'. Known: a1, a2, standard"),
        ({"affine": False, "scale": 0.1}, "need a weight: use affine=True"),
        ({"affine": False, "formulation": "a1"}, "need a weight: use affine=True"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(SpecError, match=message):
        BatchNorm(3, **options)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3,), r"takes \[N, 3\] to .*; got 1 dimensions, \[3\]"),
        ((1, 3, 2, 2, 2, 2), "got 6 dimensions"),
        ((4, 5, 5, 3), r"takes 3 channels .*; got 5, input \[4, 5, 5, 3\]. Use num_features=5"),
        ((1, 3), "more than 1 value per channel.*drop_last=True"),
    ],
)
def test_inputs_that_cannot_be(shape, message):
    layer = BatchNorm(3)
    with pytest.raises(SpecError, match=message):
        layer(torch.randn(shape))
    assert layer.num_batches_tracked == 0


def test_one_value_per_channel_is_fine_where_running_moments_are_used():
    assert BatchNorm(3).eval()(torch.ones(1, 3)).shape == (1, 3)
    with pytest.raises(SpecError, match="more than 1 value"):
        BatchNorm(3, track_running_stats=False).eval()(torch.ones(1, 3))


def test_create_is_the_registry():
    layer = normlab.create("batch(scale=0.1, formulation='a1')", num_features=4)
    assert repr(layer) == repr(BatchNorm(4, scale=0.1, formulation="a1"))
    assert "batch" in NORMS
    with pytest.raises(UnknownName, match="unknown norm 'bach'; did you mean 'batch'"):
        normlab.create("bach", num_features=4)
