"""Golden cases of probes in other shapes, with other numbers: what the format allows is replayed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.golden import load
from tests.golden.__main__ import main
from tests.golden.record import write
from tests.unit.probes import test_quantities as oracles

RNG = np.random.default_rng(3)


def formula(text=""):
    return {"origin": {"kind": "formula", "cls": "", "formula": text}}


def authors(shape):
    x, dy = RNG.standard_normal((2, *shape))
    x[0] += 2
    arrays = {name.__name__: np.atleast_1d(oracle(x)) for name, oracle in oracles.ORACLES.items()}
    arrays["grad_norm"] = np.atleast_1d(math.sqrt((dy**2).sum()))
    del arrays["gradient_norm"]
    return {"origin": {"kind": "authors", "cls": "Activs_prober, Conv_prober"}}, arrays | {"x": x, "dy": dy}


def matrices():
    one, two = RNG.standard_normal((3, 8)), RNG.standard_normal((7, 2))
    arrays = {"one": one, "two": two}
    for name, matrix in (("one", one), ("two", two)):
        plain = np.linalg.norm(matrix) ** 2 / np.linalg.norm(matrix, 2) ** 2
        arrays |= {f"{name}.mean_cosine": oracles.mean_cosine(matrix), f"{name}.stable_rank_plain": plain}
        arrays |= {f"{name}.stable_rank_rows": np.atleast_1d(oracles.stable_rank(matrix))}
    return {"origin": {"kind": "authors", "cls": "Activs_prober"}}, arrays


def quadratic():
    root, b, w = RNG.standard_normal((3, 3)), RNG.standard_normal(3), RNG.standard_normal(3)
    h, eta = root @ root.T, np.array([0.3, 0.01, 1.5])
    grad = h @ w + b

    def f(at):
        return at @ h @ at / 2 + b @ at

    points = w - eta[:, None] * grad
    gradients = points @ h + b
    off = np.linalg.norm(gradients - grad, axis=1)
    losses = np.array([f(point) for point in points])
    cosine = gradients @ grad / np.linalg.norm(gradients, axis=1) / np.linalg.norm(grad)
    beta = off / (eta * np.linalg.norm(grad))
    return formula(), {
        "H": h, "b": b, "w": w, "step_sizes": eta, "grad": grad, "loss": f(w), "losses_along": losses,
        "loss_min": losses.min(), "loss_max": losses.max(), "grad_diff": off, "cosine": cosine, "beta": beta,
        "grad_predictiveness_min": off.min(), "grad_predictiveness_max": off.max(), "beta_effective": beta.max(),
    }  # fmt: skip


def shift():
    """Three layers, with the chain rule by hand."""
    sizes, lr = [4, 5, 3, 2], 0.3
    w = {k + 1: RNG.standard_normal((sizes[k + 1], sizes[k])) for k in range(3)}
    x, t = RNG.standard_normal((7, 4)), RNG.standard_normal((7, 2))

    def gradients(weights):
        a = [x]
        for k in (1, 2):
            a.append(np.tanh(a[-1] @ weights[k].T))
        delta, found = (a[-1] @ weights[3].T - t) / len(x), {}
        for k in (3, 2, 1):
            found[k] = delta.T @ a[k - 1]
            delta = (delta @ weights[k]) * (1 - a[k - 1] ** 2)
        return found

    g, moved = gradients(w), dict(w)
    arrays = {"x": x, "t": t, "lr": lr, **{f"W{k}": value for k, value in w.items()}}
    for k in (1, 2, 3):
        after = gradients(moved)[k]
        cosine = (g[k] * after).sum() / np.linalg.norm(g[k]) / np.linalg.norm(after)
        arrays |= {f"G{k}": g[k], f"G{k}_after": after, f"cos_layer{k}": cosine}
        arrays[f"ics_layer{k}"] = np.linalg.norm(g[k] - after)
        moved[k] = w[k] - lr * g[k]
    return formula(), arrays


def ablation():
    features, weight, target = RNG.random((30, 5)), RNG.standard_normal((3, 5)), RNG.integers(0, 3, 30)
    order = RNG.permutation(5)

    def accuracy(without):
        kept = features.copy()
        kept[:, without] = 0
        return ((kept @ weight.T).argmax(1) == target).mean()

    curve = np.array([accuracy(order[:k]) for k in range(6)])
    single = np.array([accuracy([c]) for c in range(5)])
    area = ((curve[1:] + curve[:-1]) / 2).mean()
    return formula(), {
        "features": features, "W": weight, "target": target, "order": order, "accuracy_after_k": curve, "auc": area,
        "accuracy_single": single, "reliance_single": curve[0] - single,
    }  # fmt: skip


def large_values():
    x = RNG.standard_t(2, (5, 2, 30))
    values = oracles.by_channel(x)
    xhat = (values - values.mean(1, keepdims=True)) / np.sqrt(values.var(1, keepdims=True) + 0.01)
    arrays = {"x": x, "xhat_absmax": np.abs(xhat).max(1), "fraction_gt2.5": (np.abs(xhat) > 2.5).mean()}
    arrays |= {"fraction_gt6": (np.abs(xhat) > 6).mean(), "fraction_gt1_per_channel": (np.abs(xhat) > 1).mean(1)}
    return formula("biased variance, eps 0.01"), arrays


def luo():
    h, m, rho, fisher = RNG.standard_normal(9), 7, -0.4, 1.7
    zeta = (rho + 2) / (8 * m) * fisher + (1 / (1 + np.exp(-h))).mean() / (2 * m)
    arrays = {"h_bar": h, "M": m, "rho": rho, "fisher": fisher, "zeta": zeta}
    return formula(), arrays | {"sigma_prior_var": (rho + 2) / (4 * m), "mean_prior_var_over_var": 1 / m}


CASES = {
    "vectors": authors((4, 6)), "sequences": authors((5, 3, 4)), "volumes": authors((3, 2, 2, 3, 2)),
    "matrices": matrices(), "quadratic": quadratic(), "shift": shift(), "ablation": ablation(),
    "large": large_values(), "luo": luo(),
}  # fmt: skip


def replayed(tmp_path, capsys, meta, arrays):
    write(tmp_path / "any.npz", meta, {key: np.asarray(value) for key, value in arrays.items()})
    code = main([str(tmp_path)])
    return code, capsys.readouterr().out.splitlines()[0]


@pytest.mark.parametrize("name", CASES)
def test_other_cases_replay(name, tmp_path, capsys):
    assert replayed(tmp_path, capsys, *CASES[name]) == (0, "matched   any")


@pytest.mark.parametrize("name", CASES)
def test_each_number_that_is_off_fails(name, tmp_path, capsys):
    meta, arrays = CASES[name]
    given = {"x", "dy", "H", "b", "w", "t", "lr", "features", "W", "target", "order", "M", "rho", "fisher", "h_bar"}
    given |= {"step_sizes", "one", "two", "W1", "W2", "W3"}
    for array in arrays.keys() - given:
        edited = arrays | {array: np.asarray(arrays[array]) + 0.001}
        code, line = replayed(tmp_path, capsys, meta, edited)
        assert (code, line.startswith(f"failed    any ({array}")) == (1, True), line


def test_predictiveness_is_of_a_difference_and_not_of_a_sum():
    case = load("probe_landscape_quadratic")
    sums = np.linalg.norm(
        2 * case.arrays["grad"] - case.arrays["step_sizes"][:, None] * (case.arrays["H"] @ case.arrays["grad"]), axis=1
    )
    assert not np.allclose(sums, case.arrays["grad_diff"])
