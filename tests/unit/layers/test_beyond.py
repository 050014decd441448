"""The norms that do more than scale and shift: their papers' formulas, gradients, flat channels, torch's promises."""

from __future__ import annotations

import copy
import pickle
from functools import partial
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from normlab import functional as F
from normlab.errors import SpecError
from normlab.layers.base import NORMS
from normlab.layers.bnet import BNET
from normlab.layers.equilibrium import ChannelEquilibrium
from normlab.layers.evo_b0 import EvoNormB0
from normlab.layers.evo_s0 import EvoNormS0
from normlab.layers.lp import LpBatchNorm
from normlab.layers.noisy import NoisyBatchNorm
from normlab.layers.whitening import StochasticWhiteningBatchNorm
from tests.conftest import TOLERANCE
from tests.oracles import bnet, equilibrium, evo_b0, evo_s0, lp, noisy, whitening
from tests.oracles.common import Undefined

ORACLES: dict[str, ModuleType] = {
    "evo_b0": evo_b0,
    "evo_s0": evo_s0,
    "bnet": bnet,
    "lp": lp,
    "noisy": noisy,
    "whitening": whitening,
    "equilibrium": equilibrium,
}
CLASSES = (BNET, ChannelEquilibrium, EvoNormB0, EvoNormS0, LpBatchNorm, NoisyBatchNorm, StochasticWhiteningBatchNorm)
SPACE = {2: (), 3: (7,), 4: (3, 5), 5: (3, 2, 4)}
SPECS = [(name, spec) for name, oracle in ORACLES.items() for spec in oracle.EXAMPLES]
DIFFERENTIATED = [
    "evo_b0",
    "evo_b0(ddof=1, bias=False)",
    "evo_s0(num_groups=2)",
    "bnet(dims=1)",
    "bnet(dims=1, affine=False)",
    "lp",
    "lp(centred=True)",
    "lp(p=1)",
    "lp(p='inf')",
    "lp(p='inf', centred=True)",
    noisy.EXAMPLES[0],
    "whitening(alpha=0.0)",  # W is a constant in the backward pass, and so it is in the forward one
    "equilibrium(group_size=2)",
    "equilibrium(standardize=False, group_size=4)",
]
EVO = ["evo_b0", "evo_b0(ddof=1)", "evo_s0(num_groups=4)", "evo_s0(num_groups=2, ddof=1)"]
near = partial(torch.testing.assert_close, rtol=0, atol=1e-10)


def build(spec: str, channels: int = 4, dtype: torch.dtype = torch.float64) -> nn.Module:
    layer = NORMS.create(spec, num_features=channels, dtype=dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


def state(layer: nn.Module) -> dict[str, np.ndarray]:
    return {k: v.double().numpy().copy() if v.is_floating_point() else v.numpy() for k, v in layer.state_dict().items()}


def check_step(oracle: ModuleType, spec: str, layer: nn.Module, x: torch.Tensor) -> None:
    """One forward pass: y and the state after are the oracle's; where this has no value there is an error."""
    options = dict(NORMS.parse(spec, given=("num_features",)).arguments)
    try:
        expected, after = oracle.forward(options, state(layer), x.double().numpy(), layer.training)
    except Undefined:
        with pytest.raises(SpecError):
            layer(x)
        return
    y = layer(x)
    assert y.dtype == x.dtype
    atol = TOLERANCE[x.dtype] * max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(y.detach().double().numpy(), expected, rtol=0, atol=atol)
    atol = TOLERANCE[torch.promote_types(x.dtype, torch.float32)]
    for name, value in state(layer).items():
        np.testing.assert_allclose(value, after[name], rtol=0, atol=atol * max(1.0, np.abs(after[name]).max()))


@pytest.mark.parametrize("rank", SPACE)
@pytest.mark.parametrize(("name", "spec"), SPECS, ids=[spec for _, spec in SPECS])
def test_output_and_state_are_the_papers(name, spec, rank):
    oracle = ORACLES[name]
    channels = getattr(oracle, "NUM_FEATURES", 6)
    layer = build(spec, channels)
    for training in (False, True, True, False):
        check_step(oracle, spec, layer.train(training), torch.randn(4, channels, *SPACE[rank]).double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("name", "spec"), SPECS, ids=[spec for _, spec in SPECS])
def test_narrow_types_are_near_and_stay(name, spec, dtype):
    oracle = ORACLES[name]
    channels = getattr(oracle, "NUM_FEATURES", 6)
    layer = build(spec, channels, dtype)
    for training in (True, True, False):
        check_step(oracle, spec, layer.train(training), torch.randn(4, channels, 3, 5).to(dtype))


@pytest.mark.parametrize("spec", DIFFERENTIATED)
def test_first_and_second_derivatives(spec):
    layer = build(spec)
    names, values = zip(*layer.named_parameters(), strict=True) if list(layer.parameters()) else ((), ())
    x = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)

    def call(x, *parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), x)

    for training in (True, False):
        layer.train(training)
        assert torch.autograd.gradcheck(call, (x, *values))
        assert torch.autograd.gradgradcheck(call, (x, *values), fast_mode=True)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("spec", EVO)
def test_the_loops_have_the_numbers_of_the_composed_formula(spec, dtype, channels_last):
    loops = build(spec, 8, dtype)
    composed = copy.deepcopy(loops)
    x = torch.randn(3, 8, 7, 5).to(dtype).mul(2)
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    up, found = torch.randn(x.shape).to(dtype), []
    for layer, backend in ((loops, "numba"), (composed, "eager")):
        own = x.clone().requires_grad_()
        with F.use_backend(backend):
            y = layer(own)
            y.backward(up)
        assert y.stride() == x.stride()
        found.append([y.detach(), own.grad, *(p.grad for p in layer.parameters()), *layer.buffers()])
    for ours, theirs in zip(*found, strict=True):
        size = max(1.0, theirs.abs().max().item())
        torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE[dtype] * size)


@pytest.mark.parametrize("spec", EVO)
def test_the_loops_are_differentiable_twice(spec):
    layer = build(spec, 4)
    values = tuple(layer.parameters())
    x = torch.randn(2, 4, 3, 2, dtype=torch.float64, requires_grad=True)

    def call(x, *_):
        return layer(x)

    with F.use_backend("numba"):
        assert torch.autograd.gradcheck(call, (x, *values), fast_mode=True)
        assert torch.autograd.gradgradcheck(call, (x, *values), fast_mode=True)
        assert torch.autograd.gradgradcheck(call, (x.detach(), *values), fast_mode=True)


@pytest.mark.parametrize("backend", ["eager", "numba"])
@pytest.mark.parametrize("spec", ["evo_b0", "evo_s0(num_groups=4)"])
def test_nan_shows_and_large_values_do_not_overflow(spec, backend):
    layer = NORMS.create(spec, num_features=4)
    x = torch.randn(2, 4, 3, 3)
    x[0, 1, 0, 0], x[1, 3, 2, 2] = float("nan"), -1e4
    with F.use_backend(backend):
        y = layer(x)
    assert y[0, 1].isnan().all()
    assert y[1, 3].isfinite().all()


@pytest.mark.parametrize("values", ["zeros", "ones", "far", "one channel"])
@pytest.mark.parametrize("spec", [*DIFFERENTIATED, "whitening(criterion='fro', alpha=0.1)"])
def test_flat_channels_give_no_nan(spec, values):
    layer = build(spec, 4)
    x = {"zeros": torch.zeros, "ones": torch.ones}.get(values, torch.randn)(
        3, 4, *((3,) if "dims=1" in spec else (2, 3))
    )
    if values == "far":
        x = torch.full_like(x, -1e5)
    x[:, 1] = 3.0 if values == "one channel" else x[:, 1]
    x = x.double().requires_grad_()
    for training in (True, True, False):
        x.grad = None
        layer.train(training).zero_grad()
        y = layer(x)
        y.square().sum().backward()
        found = [y, x.grad, *(p.grad for p in layer.parameters() if p.grad is not None), *layer.buffers()]
        assert all(value.isfinite().all() for value in found)


@pytest.mark.parametrize(
    "spec", [oracle.EXAMPLES[i] for oracle in ORACLES.values() for i in (0, 1, 2)] + ["evo_s0(num_groups=8)", "noisy"]
)
def test_repr_evaluates_back_and_copies_are_the_same(spec):
    layer = build(spec, 32, torch.float32)
    x = torch.randn(4, 32, 3, 3)
    layer(x)
    again = eval(repr(layer), {cls.__name__: cls for cls in CLASSES})
    assert repr(again) == repr(layer)
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in layer.state_dict().items()}
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other.eval()(x), layer.eval()(x))


@pytest.mark.parametrize("spec", ["bnet(init='default')", *(o.EXAMPLES[0] for o in ORACLES.values())])
def test_reset_parameters_repairs_a_layer_from_the_meta_device(spec):
    layer = NORMS.create(spec, num_features=32, device="meta").to_empty(device="cpu")
    torch.manual_seed(1)
    layer.reset_parameters()
    torch.manual_seed(1)
    new = NORMS.create(spec, num_features=32)
    for name, value in new.state_dict().items():
        if name.split(".")[0] not in ("squeeze", "excite"):  # drawn in another order
            assert torch.equal(layer.state_dict()[name], value), name
    assert all(value.isfinite().all() for value in layer.state_dict().values())


@pytest.mark.parametrize("spec", [o.EXAMPLES[0] for o in ORACLES.values()])
def test_vmap_and_jacrev_in_eval_mode(spec):
    layer = build(spec, 32, torch.float64).eval()
    parameters = {name: value.detach() for name, value in layer.named_parameters()}
    x = torch.randn(2, 3, 32, 2, 2).double()

    def call(parameters, x):
        return torch.func.functional_call(layer, parameters, x)

    near(torch.func.vmap(call, (None, 0))(parameters, x), torch.stack([layer(one) for one in x]).detach())
    rows = torch.func.jacrev(lambda p: call(p, x[0]).sum((0, 2, 3)))(parameters)
    for name, jacobian in rows.items():
        expected = torch.autograd.grad(layer(x[0]).sum(), layer.get_parameter(name))[0]
        near(jacobian.sum(0), expected)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("spec", [o.EXAMPLES[0] for o in ORACLES.values()])
def test_autocast_keeps_dtype_and_layout(spec, channels_last):
    x = torch.randn(4, 32, 3, 5)
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    layer = NORMS.create(spec, num_features=32)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert (y.dtype, y.stride()) == (x.dtype, x.stride())
    torch.testing.assert_close(y, layer(x), rtol=0, atol=4e-2)
