"""Copies, files, devices and layouts: a layer comes back from each as it was."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch

from normlab.layers import NORMS as REGISTERED
from tests.conformance.registry import DEFAULTS, EXAMPLES, assert_same, copied, on
from tests.conformance.torch_cases import BACKENDS, NORMS, TRACKING, assert_all_close, gradients

COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
    "torch.save": lambda layer: through_a_file(layer, weights_only=False),
}

CONTIGUOUS_ON_EAGER = {"equilibrium": "a product with z as [N, groups, C / groups, L], whose gradient is contiguous"}


def through_a_file(what, *, weights_only: bool):
    file = io.BytesIO()
    torch.save(what, file)
    file.seek(0)
    return torch.load(file, weights_only=weights_only)


def used(example):
    """A layer that has been trained a little: after a forward and a backward pass."""
    layer, x = example.layer(), example.input()
    if example.takes(layer, x):
        torch.manual_seed(0)
        layer(x.requires_grad_()).square().sum().backward()
    return layer


def assert_same_layer(again, layer, example) -> None:
    assert type(again) is type(layer)
    assert repr(again) == repr(layer)
    assert_same(copied(again), copied(layer))
    x = example.input()
    if example.takes(layer, x):
        for training in (True, False):
            outputs = []
            for module in (again.train(training), layer.train(training)):
                torch.manual_seed(0)
                outputs.append(module(x))
            assert torch.equal(*outputs)
        assert_same(copied(again), copied(layer))


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("example", DEFAULTS, ids=str)
def test_copies_are_the_same_layer_and_share_nothing(example, way):
    layer = used(example)
    again = COPIES[way](layer)
    pointers = {value.data_ptr() for value in layer.state_dict().values()}
    assert not pointers & {value.data_ptr() for value in again.state_dict().values()}
    assert_same_layer(again, layer, example)


@pytest.mark.parametrize("example", DEFAULTS, ids=str)
def test_state_dict_is_plain_tensors_that_load_into_a_new_layer(example):
    layer = used(example)
    again = example.layer()
    again.load_state_dict(through_a_file(layer.state_dict(), weights_only=True))
    assert_same_layer(again, layer, example)


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_reset_parameters_puts_back_what_was_used_and_what_was_never_filled(example):
    options = example.options | {"device": "meta"}
    meta = REGISTERED[example.name](example.channels, **options)
    assert {value.device.type for value in meta.state_dict().values()} <= {"meta"}
    new = seeded(lambda: REGISTERED[example.name](example.channels, **example.options))
    for layer in (meta.to_empty(device="cpu"), used(example)):
        seeded(layer.reset_parameters)
        assert_same(copied(layer), copied(new))
    assert_same_layer(meta, new, example)


def seeded(call):
    torch.manual_seed(1)
    return call()


@pytest.mark.parametrize("norm", TRACKING, ids=str)
def test_reset_running_stats_leaves_parameters_alone(norm):
    layer = norm.layer()
    before, parameters = copied(layer), [p.clone() for p in layer.parameters()]
    layer(norm.input())
    layer.reset_running_stats()
    for name in (*layer.TRACKED, "num_batches_tracked"):
        assert torch.equal(layer.get_buffer(name), before[name])
    for old, new in zip(parameters, layer.parameters(), strict=True):
        assert torch.equal(old, new)


@pytest.mark.parametrize("example", DEFAULTS, ids=str)
def test_no_name_that_others_rename(example):
    names = " ".join(example.layer().state_dict())
    assert "gamma" not in names, "transformers renames it on loading"
    assert "beta" not in names, "transformers renames it on loading"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_channels_last_is_kept_by_the_input_gradient(norm, dims, backend):
    layer = norm.example.layer(**{"dims": dims} if str(norm) == "bnet" else {})
    plain = copy.deepcopy(layer)
    x = norm.input() if dims == 2 else norm.input(4, 3, 2, 5)
    last = x.to(memory_format=torch.channels_last if dims == 2 else torch.channels_last_3d)
    up = torch.randn_like(x if backend == "numba" else last)  # our passes keep it whatever the gradient of y has
    with on(backend):
        y, expected = gradients(plain, x, up=up)
        again, found = gradients(layer, last, up=up)
    assert again.stride() == last.stride()
    if backend == "numba" or str(norm) not in CONTIGUOUS_ON_EAGER:
        assert found["x"].stride() == last.stride()
    torch.testing.assert_close(again, y, rtol=1e-4, atol=2e-5, check_stride=False)
    largest = max(1.0, *(float(g.abs().max()) for g in expected.values()))
    assert_all_close(found, expected, rtol=0, atol=2e-5 * largest)
