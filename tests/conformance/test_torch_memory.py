"""What a layer keeps for the backward pass, and what happens when it is told to keep nothing: checkpointing."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from normlab.layers import NORMS as REGISTERED
from tests.conformance.registry import on
from tests.conformance.torch_cases import BACKENDS, LAYERS, assert_all_close, buffers, by_backward, gradients

SHAPE = 8, 32, 16, 16
ACTIVATIONS = {"bnet": 2, "equilibrium": 3, "noisy": 2, "whitening": 2}
"""Tensors of the size of x that are kept, where it is not x alone: each step after scale and shift needs its input."""


def kept(layer, x) -> list[int]:
    """Bytes of the distinct pieces of memory that the graph of layer(x) holds on to."""
    pieces: dict[int, int] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        pieces[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = layer(x)
    assert y.requires_grad
    return list(pieces.values())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["batch", "group", "instance", "layer"])
def test_pooled_norms_keep_no_more_than_torchs_batch_norm(name, backend):
    x = torch.randn(SHAPE, requires_grad=True)
    for activation in (None, "relu"):
        theirs = nn.Sequential(nn.BatchNorm2d(32), nn.ReLU() if activation else nn.Identity())
        layer = REGISTERED[name](32, activation=activation)
        with on(backend):
            ours = sum(kept(layer, x))
        assert ours <= 1.01 * sum(kept(theirs, x))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", REGISTERED)
def test_only_x_is_kept_of_its_size(name, backend):
    x = torch.randn(SHAPE, requires_grad=True)
    with on(backend):
        sizes, activation = kept(REGISTERED[name](32), x), x.numel() * x.element_size()
    large = [size for size in sizes if size >= activation]
    assert len(large) == ACTIVATIONS.get(name, 1)
    assert sum(large) == activation * len(large)
    if len(large) == 1:
        assert sum(sizes) <= 1.05 * activation, "what is kept besides has one value for each example and channel"


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "non-reentrant"])
@pytest.mark.parametrize("case", LAYERS, ids=str)
def test_checkpointing_counts_each_batch_once(case, reentrant):
    layer = case.layer().train()
    plain = copy.deepcopy(layer)

    def checkpointed(x):
        return checkpoint(layer, x, use_reentrant=reentrant)

    checkpointed.named_parameters = layer.named_parameters
    for backend in (None, None, "numba"):
        x = case.input()
        with on(backend):
            y, expected = gradients(plain, x)
            again, found = by_backward(checkpointed, x)
        torch.testing.assert_close(again, y, rtol=0, atol=0)
        assert_all_close(found, expected, rtol=0, atol=0)
        assert_all_close(buffers(layer), buffers(plain), rtol=0, atol=0)
        assert_all_close(dict(layer.named_parameters()), dict(plain.named_parameters()), rtol=0, atol=0)


def test_a_compiled_checkpoint_counts_each_batch_once():
    torch.compiler.reset()
    layer = REGISTERED["batch"](6)
    step = torch.compile(lambda x: checkpoint(layer, x, use_reentrant=False), fullgraph=True, backend="aot_eager")
    step(torch.randn(4, 6, 5, 7, requires_grad=True)).square().sum().backward()
    assert layer.num_batches_tracked == 1
