"""Probes: quantities of activations and gradients, of the landscape of a quadratic, of small networks."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from normlab import probes as P
from normlab.layers import BatchNorm
from normlab.probes.standard import standard
from normlab.surgery import norm_type
from tests.golden.comparison import Comparison

QUANTITIES = {
    "activation_variance": lambda case, key: P.activation_variance(case.tensor(key)),
    "mean_cosine": lambda case, key: P.mean_cosine(case.tensor(key)),
    "stable_rank": lambda case, key: P.stable_rank(case.tensor(key)),
    "stable_rank_rows": lambda case, key: P.stable_rank(case.tensor(key)),
    "stable_rank_plain": lambda case, key: P.stable_rank(case.tensor(key), normalize_rows=False),
    "conv_std": lambda case, key: P.conv_std(case.tensor(key)),
}
"""What is measured of a tensor, by name of the array."""


def activations(compare: Comparison) -> None:
    """Of x and dy; or of any matrix `m` that has an array `m.<quantity>`."""
    case = compare.case
    for array in case.arrays:
        base, _, quantity = array.rpartition(".")
        if quantity in QUANTITIES:
            compare.used(base or "x")
            compare.close(array, QUANTITIES[quantity](case, base or "x").reshape(case.arrays[array].shape))
    if "grad_norm" in case.arrays:
        compare.used("dy")
        compare.close("grad_norm", P.gradient_norm(case.tensor("dy")).reshape(case.arrays["grad_norm"].shape))


class Quadratic(nn.Module):
    """½ wᵀ H w + bᵀ w."""

    def __init__(self, h: Tensor, b: Tensor, w: Tensor) -> None:
        super().__init__()
        self.h, self.b, self.w = h, b, nn.Parameter(w)

    def forward(self) -> Tensor:
        return self.w @ self.h @ self.w / 2 + self.b @ self.w


def landscape(compare: Comparison) -> None:
    """Loss variation, gradient predictiveness and effective smoothness along the gradient."""
    case = compare.case
    model = Quadratic(*(case.tensor(key) for key in ("H", "b", "w")))
    found = P.landscape(model, model, step_sizes=case.arrays["step_sizes"].tolist())
    compare.used("H", "b", "w", "step_sizes")
    compare.close("grad", torch.autograd.grad(model(), model.w)[0])
    ours = {
        "loss": found.loss, "losses_along": found.losses, "loss_min": found.loss_variation[0],
        "loss_max": found.loss_variation[1], "grad_diff": found.gradient_differences,
        "grad_predictiveness_min": found.predictiveness[0], "grad_predictiveness_max": found.predictiveness[1],
        "beta": found.betas, "beta_effective": found.effective_beta, "cosine": found.cosines,
    }  # fmt: skip
    for key, value in ours.items():
        if key in case.arrays:
            compare.close(key, value)


def covariate_shift(compare: Comparison) -> None:
    """½ mean_n |W_k tanh(... tanh(W_1 x)) - t|²: each layer's gradient, before and after the layers before it moved."""
    case = compare.case
    numbers = sorted(int(key[1:]) for key in case.arrays if re.fullmatch(r"W\d+", key))
    parts: list[nn.Module] = []
    for k in numbers:
        weight = case.tensor(f"W{k}")
        parts += [nn.Tanh()] if parts else []
        parts.append(nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=case.dtype))
        parts[-1].weight = nn.Parameter(weight)
    model, x, t = nn.Sequential(*parts), case.tensor("x"), case.tensor("t")
    lr = float(case.arrays["lr"])

    def loss() -> Tensor:
        return (model(x) - t).square().sum(1).mean() / 2

    found = P.internal_covariate_shift(model, loss, lr=lr)
    compare.used("x", "t", "lr", *(f"W{k}" for k in numbers))
    for place, k in enumerate(numbers):
        for array, value in ((f"ics_layer{k}", found.shifts[place]), (f"cos_layer{k}", found.cosines[place])):
            if array in case.arrays:
                compare.close(array, value)
    linear = [part for part in parts if isinstance(part, nn.Linear)]
    gradients = torch.autograd.grad(loss(), [layer.weight for layer in linear])
    for k, layer, gradient in zip(numbers, linear, gradients, strict=True):
        for array in (f"G{k}", f"G{k}_after"):  # the layers before it have moved by now
            if array in case.arrays:
                (after,) = torch.autograd.grad(loss(), layer.weight)
                compare.close(array, gradient if array == f"G{k}" else after)
        with torch.no_grad():
            layer.weight.sub_(lr * gradient)


def ablation(compare: Comparison) -> None:
    """Accuracy of a linear classifier on features, some of which are clamped to 0."""
    case = compare.case
    features, weight, target = case.tensor("features"), case.tensor("W"), case.tensor("target")
    model = nn.Sequential(nn.Identity(), nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=case.dtype))
    model[1].weight = nn.Parameter(weight)

    def accuracy() -> float:
        return (model(features).argmax(1) == target).double().mean().item()

    curve = P.ablation_curve(model, accuracy, "0", orders=[case.arrays["order"].tolist()])
    single = P.channel_reliance(model, accuracy, "0")
    compare.used("features", "W", "target", "order")
    compare.close("accuracy_after_k", curve.accuracy[0])
    compare.close("auc", curve.area)
    compare.close("reliance_single", single.drops)
    compare.close("accuracy_single", single.accuracy - single.drops)


def large_values(compare: Comparison) -> None:
    """Shares of |x̂| beyond a threshold, by the layer's own standardization."""
    case = compare.case
    told = re.search(r"eps ([\d.e-]+\d)", case.meta["origin"].get("formula", ""))
    layer = BatchNorm(case.channels, eps=float(told[1]) if told else 1e-5, dtype=case.dtype)
    xhat = standard(P.Target("", layer, norm_type(layer)), case.tensor("x")).xhat
    compare.used("x")
    if "xhat_absmax" in case.arrays:
        compare.close("xhat_absmax", xhat.abs().amax([dim for dim in range(xhat.dim()) if dim != 1]))
    for array in case.arrays:
        known = re.fullmatch(r"fraction_gt([\d.]+)(_per_channel)?", array)
        if known:
            compare.close(array, P.large_values(xhat, float(known[1]), per_channel=known[2] is not None))


def strength(compare: Comparison) -> None:
    """The strength ζ of the regularization by batch statistics, and the variances of these."""
    case = compare.case
    numbers = {"excess_kurtosis": float(case.arrays["rho"]), "fisher": float(case.arrays["fisher"])}
    found = P.regularisation_strength(case.tensor("h_bar"), batch_size=int(case.arrays["M"]), **numbers)
    compare.used("h_bar", "M", "rho", "fisher")
    compare.close("zeta", found.zeta)
    compare.close("sigma_prior_var", found.sigma_variance)
    compare.close("mean_prior_var_over_var", found.mean_variance)


CHECKS = {"Activs_prober": activations, "Conv_prober": activations}
"""By class in the original code."""

BY_ARRAYS = {
    ("H", "b", "step_sizes", "losses_along"): landscape,
    ("W1", "G1", "ics_layer1"): covariate_shift,
    ("features", "W", "order", "accuracy_after_k"): ablation,
    ("x", "fraction_gt6"): large_values,
    ("h_bar", "M", "rho", "zeta"): strength,
}
"""By arrays that the case has, since a formula without a layer tells no kind."""
