"""The convolutions work with torch as nn.Conv2d does."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev, vmap

from normlab.layers.base import CONVS
from normlab.layers.conv_norm import ConvNorm
from normlab.layers.convolution import NormalizedKernel
from tests.unit.layers.convolutions import KINDS, SHAPE, SPECS, example


def parameters(layer):
    return {name: value.detach() for name, value in layer.named_parameters()}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("spec", SPECS)
def test_compiles_to_one_graph(spec, training):
    torch._dynamo.reset()
    layer = example(spec).train(training)
    again = copy.deepcopy(layer)
    compiled = torch.compile(again, fullgraph=True, backend="aot_eager")
    for n in (2, 3, 4):
        x = torch.randn(n, 4, 7, 6)
        torch.testing.assert_close(compiled(x), layer(x), rtol=0, atol=1e-5)
    for name, value in layer.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("spec", SPECS)
def test_exports_in_eval_mode(spec):
    layer, x = example(spec), torch.randn(2, 4, 7, 6)
    layer(x)
    exported = torch.export.export(layer.eval(), (x,), dynamic_shapes=({0: torch.export.Dim("n")},))
    x = torch.randn(5, 4, 7, 6)
    assert torch.equal(exported.module()(x), layer(x))


@pytest.mark.parametrize("spec", SPECS)
def test_transforms_of_torch_func(spec):
    layer = example(spec).eval()
    one, two = parameters(layer), parameters(example(spec))
    stacked = {name: torch.stack([one[name], two[name]]) for name in one}
    x = torch.randn(2, 4, 5, 6)

    def call(values, x):
        return functional_call(layer, values, (x,))

    both = vmap(call, in_dims=(0, None))(stacked, x)
    torch.testing.assert_close(both, torch.stack([call(one, x), call(two, x)]), rtol=1e-4, atol=1e-5)
    jacobian = jacrev(call)(one, x[:1])
    assert all(jacobian[name].isfinite().all() for name in one)


@pytest.mark.parametrize("spec", SPECS)
def test_copies_are_the_same_layer(spec):
    layer, x = example(spec), torch.randn(2, 4, 7, 6)
    layer(x)
    saved = io.BytesIO()
    torch.save(layer.state_dict(), saved)
    loaded = CONVS.create(spec, **SHAPE)
    loaded.load_state_dict(torch.load(io.BytesIO(saved.getvalue()), weights_only=True))
    for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), loaded):
        assert repr(again) == repr(layer)
        assert torch.equal(again.train()(x), copy.deepcopy(layer)(x))
        assert torch.equal(again.eval()(x), again(x))


@pytest.mark.parametrize("options", [{}, {"padding": "same", "kernel_size": (3, 1)}, {"bias": False}], ids=str)
@pytest.mark.parametrize("spec", SPECS)
def test_repr_evaluates_back(spec, options):
    call = CONVS.parse(spec, given=tuple(SHAPE))
    layer = CONVS[call.name](**{**call.arguments, **SHAPE, **options, "stride": 1})
    again = eval(repr(layer), {kind.__name__: kind for kind in KINDS})
    assert repr(again) == repr(layer)
    shapes = {name: value.shape for name, value in layer.state_dict().items()}
    assert {name: value.shape for name, value in again.state_dict().items()} == shapes
    again.load_state_dict(layer.state_dict())
    x = torch.randn(2, 4, 7, 6)
    assert torch.equal(again(x), layer(x))


@pytest.mark.parametrize("spec", SPECS)
def test_reset_parameters_repairs_a_layer_from_the_meta_device(spec):
    layer = CONVS.create(spec, **SHAPE, device="meta").to_empty(device="cpu")
    torch.manual_seed(1)
    layer.reset_parameters()
    torch.manual_seed(1)
    for name, value in CONVS.create(spec, **SHAPE).state_dict().items():
        assert torch.equal(layer.state_dict()[name], value), name


@pytest.mark.parametrize("spec", SPECS)
def test_channels_last_is_kept_where_conv2d_keeps_it(spec):
    call = CONVS.parse(spec, given=tuple(SHAPE))
    told = {key: call.arguments[key] for key in ("stride", "groups", "padding_mode", "dilation")}
    layer, plain = CONVS.create(spec, **SHAPE), nn.Conv2d(**SHAPE, **told)
    x = torch.randn(2, 4, 7, 6)
    assert layer(x).stride() == plain(x).stride()
    x = x.to(memory_format=torch.channels_last)
    assert layer(x).stride() == plain(x).stride()
    assert layer.to(memory_format=torch.channels_last)(x).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", CONVS)
def test_takes_the_arguments_of_conv2d_in_their_order(name):
    arguments = 4, 6, (3, 5), (2, 1), (1, 2), 1, 2, False, "zeros", "cpu", torch.float64
    layer, plain, x = CONVS[name](*arguments), nn.Conv2d(*arguments), torch.randn(2, 4, 7, 6).double()
    assert isinstance(layer, nn.Conv2d)
    assert layer(x).shape == plain(x).shape
    if isinstance(layer, NormalizedKernel):
        plain.load_state_dict({"weight": layer.effective_weight()})
        assert torch.equal(layer(x), plain(x))
    else:
        assert type(layer) is ConvNorm
