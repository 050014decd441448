"""BatchNorm gives the numbers of the authors' code and of torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from normlab.errors import SpecError
from normlab.layers.batch import BatchNorm
from tests.golden import Case, cases, load

NAMES = {"gamma": "weight", "beta": "bias", "alpha": "inner_weight"}  # role in a golden file → our name
FORMULATIONS = {"bn": "standard", "input_bn": "standard", "a1": "a1", "a2": "a2"}

LAYERS = [
    case
    for pattern in ("bn_scaleinit_*", "bn_input_norm", "bn_form_*", "bn_[12]d*", "bn_1x1", "bn_c*", "bn_[bdn]*")
    for case in cases(pattern)
    if "y_train" in case.arrays
]
FACTOR = load("bn_gradient_factor_init")


def build(case: Case) -> BatchNorm:
    """The layer that the case describes, with the case's parameters."""
    told, roles = case.meta["canonical"], case.by_role("param")
    frozen = {case.meta["roles"][name] for name in case.meta["frozen_params"]}
    layer = BatchNorm(
        case.arrays["x"].shape[1],
        eps=told.get("eps", 1e-5),
        momentum=told.get("momentum", 0.1),
        affine="gamma" in roles,
        track_running_stats="buf0.running_mean" in case.arrays,
        dtype=torch.float64,
        bias="beta" in roles and "beta" not in frozen,
        scale=told.get("gamma0", 1.0) * told.get("sigma_act", 1.0),
        formulation=FORMULATIONS[told["kind"]],
    )
    values = {NAMES[role]: value for role, value in roles.items() if getattr(layer, NAMES[role]) is not None}
    layer.load_state_dict({**values, **case.under("buf0")}, strict=False)
    return layer


def check_buffers(case: Case, layer: BatchNorm, prefix: str) -> None:
    buffers = dict(layer.named_buffers())
    for name, expected in case.under(prefix).items():
        case.assert_close(buffers[name], expected, f"{prefix}.{name}")


@pytest.mark.parametrize("case", LAYERS, ids=lambda case: case.name)
def test_batch_norm_replays_golden(case):
    layer = build(case)
    case.assert_close(layer.eval()(case.tensor("x_eval")).detach(), case.arrays["y_eval_untrained"], "untrained eval")

    x = case.tensor("x").requires_grad_()
    y = layer.train()(x)
    y.backward(case.tensor("dy"))
    case.assert_close(y.detach(), case.arrays["y_train"], "y_train")
    assert x.grad is not None
    case.assert_close(x.grad, case.arrays["dx"], "dx")
    gradients = case.by_role("grad")
    assert {NAMES[role] for role in gradients} == {name for name, _ in layer.named_parameters()}
    for role, expected in gradients.items():
        case.assert_close(layer.get_parameter(NAMES[role]).grad, expected, f"gradient of {role}")
    check_buffers(case, layer, "buf1")

    case.assert_close(layer.eval()(case.tensor("x_eval")).detach(), case.arrays["y_eval"], "y_eval")
    if "x2" in case.arrays:
        layer.train()(case.tensor("x2"))
        check_buffers(case, layer, "buf2")


@pytest.mark.parametrize("name", ["bn_scaleinit_g0.1", "bn_scaleinit_g1.0", "bn_input_norm", "bn_form_a2_init"])
def test_initial_values_are_the_authors(name):
    case = load(name)
    layer = build(case)
    if "gamma0" not in case.meta["canonical"]:  # the formula cases draw their scale, and say so nowhere
        layer.scale = float(case.by_role("param")["gamma"][0])
    layer.reset_parameters()
    for role, expected in case.by_role("param").items():
        if role != "gamma" or bool((expected == expected[0]).all()):
            ours = getattr(layer, NAMES[role])
            case.assert_close(torch.zeros_like(expected) if ours is None else ours.detach(), expected, role)


@pytest.mark.parametrize("case", cases("bn_scaleinit_nonpositive_*"), ids=lambda case: case.name)
def test_nonpositive_scale_is_refused_where_the_authors_take_one(case):
    assert (case.by_role("param")["gamma"] == 1).all()
    with pytest.raises(SpecError, match=r"scale=.* should be a number > 0"):
        BatchNorm(case.meta["ctor"]["num_features"], scale=case.meta["ctor"]["bn_weight"])


def test_two_dimensional_input_is_taken_where_the_authors_refuse_it():
    assert load("bn_scaleinit_error_2d_input").meta["expect"] == "raises"
    assert BatchNorm(3)(torch.randn(4, 3)).shape == (4, 3)


def test_one_value_per_channel_raises_as_in_torch():
    case = load("bn_error_single_value")
    assert case.meta["exception"] == "ValueError"
    with pytest.raises(ValueError, match="more than 1 value per channel") as caught:
        BatchNorm(3)(torch.zeros(1, 3, 1, 1))
    assert case.meta["message"] in str(caught.value)


@pytest.mark.parametrize("case", cases("bn_gradient_eqs_*"), ids=lambda case: case.name)
def test_gradient_equations_5_to_12(case):
    a = case.arrays
    axes = (0, *range(2, a["x"].ndim))
    wide = (1, -1, *[1] * (a["x"].ndim - 2))
    m, eps = a["x"].size // a["x"].shape[1], case.meta["eps"]

    mu = a["x"].mean(axes)
    centred = a["x"] - mu.reshape(wide)
    var = (centred**2).mean(axes)
    root = np.sqrt(var + eps).reshape(wide)
    xhat = centred / root
    d_xhat = a["gamma"].reshape(wide) * a["dy"]  # (7)
    d_var = -0.5 * (var + eps) ** -1.5 * (d_xhat * centred).sum(axes)  # (8)
    d_mu = -(d_xhat / root).sum(axes) + d_var * (-2 / m) * centred.sum(axes)  # (9)
    dx = d_xhat / root + d_var.reshape(wide) * 2 * centred / m + d_mu.reshape(wide) / m  # (5), (6)
    d_gamma, d_beta = (a["dy"] * xhat).sum(axes), a["dy"].sum(axes)  # (10)
    factor = a["gamma"] / np.sqrt(var + eps)
    f = a["dy"] - a["dy"].mean(axes).reshape(wide) - xhat * (a["dy"] * xhat).mean(axes).reshape(wide)
    found = {
        "mu": mu, "var": var, "xhat": xhat, "d_xhat": d_xhat, "d_var": d_var, "d_mu": d_mu, "dx_eq11": dx,
        "d_gamma": d_gamma, "d_beta": d_beta, "gradient_factor": factor, "dx_eq12": factor.reshape(wide) * f,
    }  # fmt: skip
    for key, value in found.items():
        case.assert_close(value, a[key], key)

    layer = BatchNorm(a["x"].shape[1], eps=eps, dtype=torch.float64)
    layer.load_state_dict({"weight": case.tensor("gamma"), "bias": case.tensor("beta")}, strict=False)
    x = case.tensor("x").requires_grad_()
    layer(x).backward(case.tensor("dy"))
    assert x.grad is not None
    assert layer.weight is not None
    assert layer.bias is not None
    for key in ("dx_autograd", "dx_eq11", "dx_eq12"):
        case.assert_close(x.grad, a[key], key)
    case.assert_close(layer.weight.grad, a["d_gamma"], "d_gamma")
    case.assert_close(layer.bias.grad, a["d_beta"], "d_beta")


@pytest.mark.parametrize("row", range(len(FACTOR.arrays["gamma0"])))
def test_gradient_factor_of_a_new_net_equations_14_to_16(row):
    case, z = FACTOR, FACTOR.tensor("x")
    gamma0 = float(case.arrays["gamma0"][row])
    for depth in range(len([key for key in case.arrays if key.startswith("W")])):
        x = z @ case.tensor(f"W{depth}").T
        layer = BatchNorm(x.shape[1], eps=1e-30, dtype=torch.float64, scale=gamma0)  # torch refuses 0
        sigma = x.std(0, unbiased=False)
        case.assert_close(sigma, case.arrays["sigma"][row, depth], f"sigma {depth}")
        case.assert_close(gamma0 / sigma, case.arrays["factor"][row, depth], f"factor {depth}")
        z = layer(x).relu().detach()


def test_gradient_factor_does_not_depend_on_the_initial_scale_beyond_the_first_layer():
    factor, gamma0 = FACTOR.arrays["factor"], FACTOR.arrays["gamma0"]  # [gamma0, layer, channel]
    for row in factor[1:]:
        FACTOR.assert_close(row[1:], factor[0, 1:], "layers fed by a BatchNorm")
    FACTOR.assert_close(factor[:, 0] / gamma0[:, None], np.broadcast_to(factor[0, 0] / gamma0[0], factor[:, 0].shape))
