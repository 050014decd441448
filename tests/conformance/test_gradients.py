"""Gradients are those of the formula, first and second, on every backend; running statistics have none."""

from __future__ import annotations

from inspect import signature

import pytest
import torch
from torch.func import functional_call

from normlab import functional as F
from tests.conformance.registry import BATCH, DEFAULTS, EXAMPLES, on
from tests.conftest import TOLERANCE

LAYOUTS = {
    "contiguous": lambda n, c: torch.randn(n, c, 3, 5),
    "channels_last": lambda n, c: torch.randn(n, 3, 5, c).movedim(-1, 1),
    "channels_last_3d": lambda n, c: torch.randn(n, 3, 2, 5, c).movedim(-1, 1),
}
UPSTREAM = {
    "dense": torch.randn_like,
    "expanded": lambda y: torch.randn(y.shape[1:]).expand(y.shape),
    "transposed": lambda y: torch.randn(y.transpose(0, 1).shape).transpose(0, 1),
    "sliced": lambda y: torch.randn(*y.shape, 2)[..., 0],
}
ON = [
    ("numba", "contiguous", "expanded", False),
    ("numba", "channels_last", "dense", True),
    ("numba", "channels_last_3d", "transposed", False),
    (None, "contiguous", "sliced", True),
]
MODES = [(example, True) for example in EXAMPLES if example.differentiable]
MODES += [(example, False) for example in EXAMPLES if example.is_default or not example.differentiable]


def function(layer):
    """The layer as a function of (parameters, x, …) that leaves its buffers alone; and the parameters."""
    names = [name for name, _ in layer.named_parameters()]

    def call(parameters, *inputs):
        buffers = {name: buffer.clone() for name, buffer in layer.named_buffers()}
        return functional_call(layer, dict(zip(names, parameters, strict=True)) | buffers, inputs)

    return call, list(layer.parameters())


@pytest.mark.parametrize(("example", "training"), MODES, ids=str)
def test_first_and_second_derivatives_are_those_of_finite_differences(example, training):
    layer = example.layer(torch.float64).train(training)
    x = example.fitting(layer).requires_grad_()
    call, parameters = function(layer)
    with F.use_backend("eager"):
        for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
            assert check(lambda x, *parameters: call(parameters, x), (x, *parameters), fast_mode=True)


@pytest.mark.parametrize(("backend", "layout", "upstream", "with_residual"), ON)
@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_backends_have_the_gradients_of_eager(example, backend, layout, upstream, with_residual):
    layer = example.layer(torch.float64)
    x = LAYOUTS[layout](BATCH, example.channels).double().requires_grad_()
    if not example.takes(layer, x) or (with_residual and "residual" not in signature(layer.forward).parameters):
        return
    inputs = [x, torch.randn(x.shape).double().requires_grad_()] if with_residual else [x]
    g = UPSTREAM[upstream](x).double().requires_grad_()
    call, parameters = function(layer)
    assert_agree(call, parameters, inputs, g, backend)


@pytest.mark.parametrize(("backend", "layout", "upstream"), [case[:3] for case in ON])
@pytest.mark.parametrize("example", DEFAULTS, ids=str)
def test_a_layer_that_is_used_twice_has_the_gradients_of_eager(example, backend, layout, upstream):
    layer = example.layer(torch.float64)
    x = LAYOUTS[layout](BATCH, example.channels).double().requires_grad_()
    if example.takes(layer, x):
        call, parameters = function(layer)
        g = UPSTREAM[upstream](x).double().requires_grad_()
        assert_agree(lambda p, x: call(p, call(p, x)), parameters, [x], g, backend)


def assert_agree(call, parameters, inputs, g, backend):
    expected = derivatives(call, parameters, inputs, g, "eager")
    for number, (a, e) in enumerate(zip(derivatives(call, parameters, inputs, g, backend), expected, strict=True)):
        atol = TOLERANCE[torch.float64] * max(1.0, e.abs().max().item())
        torch.testing.assert_close(a, e, rtol=0, atol=atol, msg=lambda text, n=number: f"derivative {n}: {text}")


def derivatives(call, parameters, inputs, g, backend):
    """∂⟨y, g⟩, once without and once with a graph; then ∂|∂⟨y, g⟩|²: by the inputs, the parameters and, at last, g."""
    of = [*inputs, *parameters]
    with on(backend):
        plain = torch.autograd.grad(call(parameters, *inputs), of, g)
        first = torch.autograd.grad(call(parameters, *inputs), of, g, create_graph=True)
        square = sum(gradient.square().sum() for gradient in first)
        second = torch.autograd.grad(square, [*of, g], allow_unused=True)
    unused = (
        torch.zeros_like(value) if found is None else found for found, value in zip(second, [*of, g], strict=True)
    )
    return [*plain, *first, *unused]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_every_parameter_has_a_gradient_and_no_statistic_has(example, training):
    layer = example.layer().train(training)
    x = example.fitting(layer, torch.float32).requires_grad_()
    layer(x).square().sum().backward()
    assert [name for name, p in layer.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert [name for name, b in layer.named_buffers() if b.requires_grad or b.grad_fn is not None] == []
    assert x.grad is not None
    assert x.grad.dtype == x.dtype
