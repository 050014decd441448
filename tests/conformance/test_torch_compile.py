"""torch.compile sees one graph, for any batch, with the outputs, gradients and running statistics of eager."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from normlab import functional as F
from normlab.layers import NORMS as REGISTERED
from tests.conformance.torch_cases import NORMS, TRACKING, assert_all_close, buffers, gradients

AVERAGING = [norm for norm in TRACKING if str(norm) in ("batch", "ghost", "switch")]  # the others call the same update


def compiled(layer, backend: str, **options):
    """A compiled copy of the layer, the copy, and a count of its graphs."""
    torch.compiler.reset()
    again, counter = copy.deepcopy(layer), CompileCounterWithBackend(backend)
    return torch.compile(again, fullgraph=True, backend=counter, **options), again, counter


def train(layer, inputs, backend: str, **options) -> None:
    """Training steps, compiled to one graph and not at all: the same outputs, gradients and buffers."""
    fast, again, counter = compiled(layer.train(), backend, **options)
    for x in inputs:
        y, expected = gradients(layer, x)
        got, found = gradients(fast, x)
        torch.testing.assert_close(got, y, rtol=1e-5, atol=5e-5)
        found = {name.removeprefix("_orig_mod."): g for name, g in found.items()}
        assert_all_close(found, expected, rtol=1e-4, atol=1e-4)
    assert_all_close(buffers(again), buffers(layer), rtol=1e-5, atol=1e-5)
    assert counter.frame_count <= 2, "one; and one more where torch has to take a number for a constant after all"


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_training_compiles_to_one_graph(norm):
    train(norm.layer(), [norm.input(), norm.input()], "aot_eager")


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_another_batch_size_compiles_once_more(norm, training):
    layer = norm.layer()
    layer(norm.input())
    fast, again, counter = compiled(layer.train(training), "eager")
    for n in (4, 6):
        x = norm.input(n)
        torch.manual_seed(n)
        expected = layer(x)
        torch.manual_seed(n)
        torch.testing.assert_close(fast(x), expected, rtol=1e-5, atol=2e-5)
    assert_all_close(buffers(again), buffers(layer), rtol=1e-5, atol=1e-5)
    assert counter.frame_count <= 2, "one graph for the first batch size, one for all others"


@pytest.mark.parametrize("norm", AVERAGING, ids=str)
def test_a_cumulative_average_compiles(norm):
    train(norm.layer(momentum=None), [norm.input(), norm.input()], "aot_eager")


def test_inductor_generates_the_same_numbers():
    names = "batch", "batch_renorm", "group", "switch"
    layer = nn.Sequential(*(REGISTERED[name](32) for name in names))
    train(layer, [torch.randn(4, 32, 5, 7), torch.randn(6, 32, 5, 7)], "inductor", dynamic=True)


def test_nothing_is_recorded_inside_a_compiled_graph():
    norm = NORMS[0]
    layer = norm.layer()
    with F.use_backend("numba"):
        layer(norm.input())
    before = F.backend()
    torch.compiler.reset()
    torch.compile(layer, fullgraph=True, backend="eager")(norm.input())
    assert F.backend() == before
