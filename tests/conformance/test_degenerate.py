"""Flat maps, values far from zero, tensors with nothing in them, and one value where a variance is wanted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from normlab.errors import SpecError
from normlab.layers import create
from tests.conformance.registry import BATCH, DEFAULTS, EXAMPLES, assert_same, copied, follow, on

FLAT = [
    (torch.float64, -0.1, True),
    (torch.float32, 0.0, True),
    (torch.float32, 3.0, False),
    (torch.bfloat16, 100.0, False),
]
STEEP = 320
"""Largest scale, 1/√eps: where the variance is 0, it multiplies the rounding errors of x and of the means."""
EMPTY = [(0, 3, 5), (0, 7), (0,), (BATCH, 0, 5), (BATCH, 0)]


@pytest.mark.parametrize(("dtype", "value", "whole"), FLAT, ids=str)
@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_flat_maps_are_the_papers_and_have_finite_gradients(example, dtype, value, whole):
    layer, x = example.layer(dtype), torch.randn(BATCH, example.channels, 3, 5)
    x[:, 1] = x[2] = value  # one channel and one example
    if whole:
        x.fill_(value)
    for backend in (None,) if dtype == torch.bfloat16 else ("numba", None):
        leaf = x.to(dtype).requires_grad_()
        with on(backend):
            y = follow(example, layer, leaf, STEEP * (1 + abs(value)))
            if y is not None:
                y.backward(torch.randn_like(y))
                assert leaf.grad.isfinite().all()
                assert all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("backend", ["numba", None])
@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_digits_are_not_lost_far_from_zero(example, backend):
    layer, x = example.layer(torch.float64), torch.randn(BATCH, example.channels, 3, 5).double() + 1e6
    if example.takes(layer, x):
        expected, _ = example.expect(layer, x)
        with on(backend):
            y = layer(x).detach().numpy()
        np.testing.assert_allclose(y, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", EMPTY, ids=str)
@pytest.mark.parametrize("example", DEFAULTS, ids=str)
def test_nothing_gives_nothing_or_an_error_and_leaves_the_state(example, shape, training):
    for backend in ("eager", None):
        layer = example.layer(torch.float32).train(training)
        x, before = torch.randn(shape[0], example.channels, *shape[1:], requires_grad=True), copied(layer)
        with on(backend):
            try:
                y = layer(x)
            except SpecError:
                y = None
        assert_same(copied(layer), before)
        if y is not None:
            assert y.shape == x.shape
            y.sum().backward()
            assert [n for n, p in layer.named_parameters() if p.grad is not None and not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("example", [e for e in EXAMPLES if e.options.get("batch1") == "running"], ids=str)
def test_one_value_per_channel_is_normalized_by_the_running_statistics(example):
    layer = example.layer(torch.float64)
    layer(torch.randn(8, example.channels).double())
    before, x = copied(layer), torch.randn(1, example.channels).double()
    y = layer.train()(x)
    torch.testing.assert_close(layer.eval()(x), y, rtol=0, atol=0)
    assert_same(copied(layer), before)


@pytest.mark.parametrize("spec", ["batch", "ghost(ghost_size=1)", "mean_only", "variance", "switch(using_in=False)"])
def test_one_value_per_channel_is_refused_with_what_to_do(spec):
    message = r"more than 1 value per channel.*got input size.*drop_last=True.*batch1='running'.*eval.*GroupNorm"
    layer = create(spec, num_features=6)
    for x in (torch.randn(1, 6), torch.randn(1, 6, 1, 1)):
        with pytest.raises(SpecError, match=message):
            layer(x)
