"""A layer reads as the call that makes it, takes its options under torch's names, and keeps its statistics wide."""

from __future__ import annotations

import inspect

import pytest
import torch

from normlab import layers
from normlab.layers import NORMS, create
from tests.conformance.registry import DEFAULTS, EXAMPLES, assert_same, copied


def again(layer):
    """The layer that `layer` says it is; of its children, which come with it, it says nothing."""
    return eval(f"{type(layer).__name__}({layer.extra_repr()})", vars(layers) | {"tensor": torch.tensor})


def public(layer):
    return {name: value for name, value in vars(layer).items() if not name.startswith("_")}


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_repr_evaluates_to_an_equal_layer(example):
    layer = create(example.spec, num_features=example.channels)
    copy = again(layer)
    assert repr(copy) == repr(layer)
    assert public(copy) == public(layer)
    assert copied(copy).keys() == copied(layer).keys()
    copy.load_state_dict(layer.state_dict())
    x = example.fitting(layer, torch.float32)
    torch.manual_seed(0)
    y = layer(x)
    torch.manual_seed(0)
    assert torch.equal(copy(x), y)
    assert_same(copied(copy), copied(layer))


@pytest.mark.parametrize("example", DEFAULTS, ids=str)
def test_repr_shows_only_what_is_not_the_default(example):
    layer = NORMS[example.name](example.channels, **arguments(example.spec))
    shown = layer.extra_repr().split(", ", 1)
    assert shown[0] == str(example.channels)
    assert len(shown) == 1 or "(" in example.spec


def arguments(spec):
    return dict(NORMS.parse(spec, given=("num_features",)).arguments) if "(" in spec else {}


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: layers.MetaNorm(2, U=torch.ones(2, 2)), "MetaNorm(2, U=[[1.0, 1.0], [1.0, 1.0]])"),
        (lambda: layers.MetaNorm(2, V=torch.eye(2)), "MetaNorm(2, V=[[1.0, 0.0], [0.0, 1.0]])"),
        (lambda: layers.GroupNorm(6, 3), "GroupNorm(6, num_groups=3)"),
        (lambda: layers.GroupNorm(num_groups=3, num_features=6), "GroupNorm(6, num_groups=3)"),
        (lambda: layers.BatchNorm(6, 1e-3, None, dtype=torch.float64), "BatchNorm(6, eps=0.001, momentum=None)"),
        (lambda: changed(layers.BatchNorm(6), eps=0.1), "BatchNorm(6, eps=0.1)"),
        (lambda: changed(layers.BatchRenorm(6), rmax=1.5), "BatchRenorm(6, rmax=1.5)"),
        (lambda: changed(layers.SwitchNorm(6), momentum=None), "SwitchNorm(6, momentum=None)"),
    ],
)  # fmt: skip
def test_repr_shows_what_is_so_now(make, text):
    layer = make()
    assert repr(layer) == text
    assert repr(again(layer)) == text


def changed(layer, **attributes):
    for name, value in attributes.items():
        setattr(layer, name, value)
    return layer


@pytest.mark.parametrize("name", NORMS)
def test_num_features_comes_first_and_own_arguments_by_name(name):
    torchs = ["eps", "momentum", "affine", "track_running_stats", "device", "dtype", "num_groups"]
    first, *others = inspect.signature(NORMS[name]).parameters.values()
    assert first.name == "num_features"
    assert [p.name for p in others if p.kind is p.POSITIONAL_OR_KEYWORD and p.name not in torchs] == []
    assert {"eps", "device", "dtype"} <= NORMS.hints(name).keys()


@pytest.mark.parametrize("convert", ["bfloat16", "half"])
@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_buffers_stay_wide_and_as_they_are_in_a_half_layer(example, convert):
    layer = example.layer(torch.float32)
    layer(example.fitting(layer, torch.float32))
    before = copied(layer)
    getattr(layer, convert)()
    buffers = dict(layer.named_buffers())
    assert_same(buffers, {name: before[name] for name in buffers})
    assert {p.dtype for p in layer.parameters()} <= {getattr(torch, convert)}
