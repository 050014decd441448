"""torch.func's transforms and second derivatives go through every norm; where one cannot, the error says what to do."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.func import functional_call, grad, jacrev, jvp, vmap

from normlab import functional as F
from normlab.errors import SpecError
from tests.conformance.registry import on
from tests.conformance.torch_cases import BACKENDS, NORMS, TRACKING, assert_all_close, buffers, gradients, parameters
from tests.conftest import TOLERANCE

CLOSE = TOLERANCE[torch.float32]
KEEPS_STATE = ("attentive", "batch_renorm", "sparse_switch", "whitening")
"""What these write to in training without running statistics of their own, vmap needs stacked."""
WRITES_PARAMETERS = ("sparse_switch",)
"""In training its logits are overwritten when they are one-hot; vmap can do that only where they are stacked."""


def stacked(*states):
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}


def two_of(norm, training: bool):
    """Two layers of different parameters and buffers, what they are made of, and a function of it."""
    layers = [norm.layer(), norm.layer()]
    for layer in layers:
        layer(norm.input())
        layer.train(training)

    def call(values, buffers, x):
        torch.manual_seed(0)  # for layers that draw noise
        return functional_call(layers[0], (values, buffers), (x,))

    return layers, call


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_vmap_over_stacked_parameters_and_buffers(norm, training):
    layers, call = two_of(norm, training)
    values, state = stacked(*map(parameters, layers)), stacked(*map(buffers, layers))
    x = torch.stack([norm.input(), norm.input()])
    y = vmap(call, randomness="same")(values, state, x)
    for i, layer in enumerate(layers):
        torch.manual_seed(0)
        torch.testing.assert_close(y[i], layer(x[i]), rtol=CLOSE, atol=CLOSE)
        after = {name: value[i] for name, value in state.items()}
        assert_all_close(after, buffers(layer), rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize("norm", [norm for norm in NORMS if parameters(norm.layer())], ids=str)
def test_vmap_over_parameters_alone(norm):
    layers, _ = two_of(norm, training=False)
    x = norm.input()
    y = vmap(lambda values: functional_call(layers[0], values, (x,)))(stacked(*map(parameters, layers)))
    expected = [functional_call(layers[0], parameters(layer), (x,)) for layer in layers]
    torch.testing.assert_close(y, torch.stack(expected), rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize("norm", [norm for norm in TRACKING if str(norm) not in KEEPS_STATE], ids=str)
def test_vmap_over_a_training_forward_without_running_statistics(norm):
    layer, x = norm.layer(track_running_stats=False), torch.stack([norm.input(), norm.input()])
    y = vmap(lambda x: functional_call(layer, parameters(layer), (x,)), randomness="different")(x)
    assert y.shape == x.shape
    if str(norm) != "noisy":
        torch.testing.assert_close(y, torch.stack([layer(x[0]), layer(x[1])]), rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_gradients_by_example_and_by_parameter(norm, training):
    layers, call = two_of(norm, training)
    layer, x, up = layers[0], norm.input(), torch.linspace(-1, 1, norm.input().numel()).reshape(norm.input().shape)
    values, state = parameters(layer), buffers(layer)

    def loss(values, x, state):
        return (call(values, state, x) * up).sum()

    found, d_x = grad(loss, (0, 1))(values, x, dict(state))
    if not (training and str(norm) in WRITES_PARAMETERS):
        xs, states = torch.stack([x, x]), stacked(buffers(layer), buffers(layer))
        each = vmap(grad(loss), in_dims=(None, 0, 0), randomness="same")(values, xs, states)
        for name, value in each.items():
            torch.testing.assert_close(value, torch.stack([found[name]] * 2), rtol=1e-4, atol=2e-4)
    _, expected = gradients(layer, x, up=up)
    torch.testing.assert_close(d_x, expected.pop("x"), rtol=1e-4, atol=1e-4)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_jacobian_in_eval_mode(norm):
    layer, x = two_of(norm, training=False)[0][0], norm.input(2, 2, 2)
    jacobian, along = jacrev(layer)(x), torch.randn_like(x)
    _, expected = jvp(layer, (x,), (along,))
    found = torch.einsum("ncijmdkl,mdkl->ncij", jacobian, along)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_jacobian_of_normalize_itself():
    x = torch.randn(3, 4, 5, dtype=torch.float64)

    def instance(x):
        return F.normalize(x, lambda m: F.standardize(m, None, None, 1e-5))

    jacobian = jacrev(instance)(x)
    expected = torch.autograd.functional.jacobian(instance, x)
    torch.testing.assert_close(jacobian, expected, rtol=0, atol=TOLERANCE[torch.float64])
    each = vmap(grad(lambda x: instance(x[None]).pow(3).sum()))(x)
    torch.testing.assert_close(each, grad(lambda x: instance(x).pow(3).sum())(x), rtol=0, atol=TOLERANCE[torch.float64])


@pytest.mark.parametrize("norm", TRACKING, ids=str)
def test_an_update_that_torch_func_cannot_make_names_the_way_out(norm):
    layer = norm.layer()
    before, x = buffers(layer), norm.input()
    values = parameters(layer)
    for call in (
        lambda: grad(lambda v: functional_call(layer, v, (x,)).sum())(values),
        lambda: jacrev(layer)(x),
        lambda: vmap(layer, randomness="same")(torch.stack([x, x])),
    ):
        with pytest.raises(SpecError, match=r"functional_call\(layer, \(parameters, buffers\), x\)"):
            call()
    assert_all_close(buffers(layer), before, rtol=0, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_second_derivatives_are_those_of_eager(norm, backend):
    like, x = norm.layer(dtype=torch.float64), norm.input().double().requires_grad_()
    along = torch.randn_like(x)

    def second_derivatives():
        torch.manual_seed(1)
        layer = copy.deepcopy(like)
        inputs = [x, *layer.parameters()]
        y = layer(x)
        (d_x,) = torch.autograd.grad((along * y + y**3).sum(), x, create_graph=True)
        return torch.autograd.grad(d_x.square().sum(), inputs, allow_unused=True)

    with on(backend):
        found = second_derivatives()
    with F.use_backend("eager"):
        expected = second_derivatives()
    largest = max(value.abs().max().item() for value in expected if value is not None)
    for value, other in zip(found, expected, strict=True):
        assert (value is None) == (other is None)
        if value is not None:
            torch.testing.assert_close(value, other, rtol=0, atol=TOLERANCE[torch.float64] * max(1, largest))
