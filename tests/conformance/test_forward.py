"""Every norm is its paper's formula: in each dtype, rank, size, layout and backend, and far from zero."""

from __future__ import annotations

from inspect import signature

import numpy as np
import pytest
import torch

from normlab import functional as F
from normlab.errors import Unavailable
from normlab.layers import NORMS
from tests.conformance.registry import BATCH, DEFAULTS, EXAMPLES, arrays, assert_near, find_oracle, follow, on
from tests.conftest import TOLERANCE

MEANS = pytest.mark.parametrize("mean", [0.0, 100.0], ids=["centred", "far-from-zero"])
LAYOUTS = {
    "contiguous": lambda n, c: torch.randn(n, c, 3, 5),
    "contiguous_3d": lambda n, c: torch.randn(n, c, 3, 2, 5),
    "channels_last": lambda n, c: torch.randn(n, 3, 5, c).movedim(-1, 1),
    "channels_last_3d": lambda n, c: torch.randn(n, 3, 2, 5, c).movedim(-1, 1),
    "sliced": lambda n, c: torch.randn(n, c + 1, 6, 5)[:, 1:, ::2],
    "transposed": lambda n, c: torch.randn(c, n, 5, 3).transpose(0, 1).transpose(2, 3),
    "expanded": lambda n, c: torch.randn(n, c, 3, 1).expand(n, c, 3, 5),
}
DENSE = ("contiguous", "contiguous_3d", "channels_last", "channels_last_3d")
ON = [*(("numba", layout) for layout in DENSE), ("eager", "channels_last"), (None, "channels_last_3d")]
STRIDED = [layout for layout in LAYOUTS if layout not in DENSE]
SIZES = [(1, 1), (1, 1, 1), (3, 5), (1,), (17, 1), (1, 7), (1, 1, 3), (33,)]


@pytest.mark.parametrize("name", NORMS)
def test_every_norm_has_an_oracle(name):
    assert find_oracle(name) is not None, f"{name!r} is registered: write tests/oracles/{name}.py"


@MEANS
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_forward_and_state_are_the_papers(example, dtype, mean):
    layer = example.layer(dtype)
    for training in (False, True, True, False):
        follow(example, layer.train(training), example.input(4, dtype, mean), mean)


@pytest.mark.parametrize("rank", [2, 3, 5])
@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_forward_is_the_papers_in_every_rank(example, rank):
    layer = example.layer(torch.float64)
    for training in (True, True, False):
        follow(example, layer.train(training), example.input(rank, torch.float64))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("example", DEFAULTS, ids=str)
def test_forward_is_the_papers_at_every_size(example, size, batch):
    layer = example.layer(torch.float64)
    for training in (True, True, False):
        follow(example, layer.train(training), torch.randn(batch, example.channels, *size).double())


@pytest.mark.parametrize(("backend", "layout"), ON)
@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_layouts_and_backends_agree_and_layouts_stay(example, layout, backend):
    follow_both_modes(example, LAYOUTS[layout], backend, strides=True)


@pytest.mark.parametrize("layout", STRIDED)
@pytest.mark.parametrize("backend", ["eager", None])
@pytest.mark.parametrize("example", DEFAULTS, ids=str)
def test_strides_may_be_any(example, layout, backend):
    follow_both_modes(example, LAYOUTS[layout], backend, strides=False)


def follow_both_modes(example, make, backend, *, strides):
    """Hold the layer to the oracle; it leaves x alone and, where `strides` says so, gives y the same strides."""
    layer = example.layer(torch.float32)
    for training in (True, False):
        x = make(BATCH, example.channels)
        was, before = x.stride(), x.clone()
        with on(backend):
            y = follow(example, layer.train(training), x)
        assert torch.equal(x, before)
        assert x.stride() == was
        assert not strides or y is None or y.stride() == was


@pytest.mark.parametrize("layout", STRIDED)
@pytest.mark.parametrize("example", DEFAULTS, ids=str)
def test_numba_is_never_replaced_where_it_was_asked_for(example, layout):
    layer, x = example.layer(torch.float32), LAYOUTS[layout](BATCH, example.channels)
    if example.takes(layer, x):
        message = r"neither contiguous nor channels_last.*use_backend\('eager'\) can"
        with F.use_backend("numba"), pytest.raises(Unavailable, match=message):
            layer(x)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("example", DEFAULTS, ids=str)
def test_large_inputs_are_the_papers_on_the_backend_of_choice(example, channels_last):
    layer, x = example.layer(torch.float32), torch.randn(8, example.channels, 52, 53)
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    y = follow(example, layer, x)
    if y is not None:
        assert y.stride() == x.stride()
        pooled = example.name in ("batch", "group", "instance", "layer")  # torch's own may be the fastest
        assert F.backend().name in (("torch", "numba") if pooled else ("numba",)), F.backend()


@pytest.mark.parametrize(
    ("backend", "layout"), [("numba", "channels_last"), ("eager", "contiguous"), (None, "channels_last_3d")]
)
@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_residual_is_added_before_the_activation(example, backend, layout):
    layer = example.layer(torch.float64)
    x, residual = (LAYOUTS[layout](BATCH, example.channels).double() for _ in range(2))
    if "residual" not in signature(layer.forward).parameters or not example.takes(layer, x):
        return
    state, options = arrays(layer), example.options | {"activation": None}
    floor = state.pop("threshold", 0.0 if example.options.get("activation") == "relu" else -np.inf)
    plain, _ = example.oracle.forward(options, state, x.numpy(), layer.training)
    expected = np.maximum(plain + residual.numpy(), np.reshape(floor, (-1, *[1] * (x.dim() - 2))))
    with on(backend):
        y = layer(x, residual)
    assert_near(y, expected, torch.float64)
    assert y.stride() == x.stride()
