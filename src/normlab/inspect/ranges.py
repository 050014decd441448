"""The healthy range of every quantity, and what it means to leave it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from normlab.inspect.measure import Row

Side = Literal["low", "high"]
ALIKE = 0.95  # mean cosine from which a layer does not tell the examples apart
CONSTANT = 1e-6  # σ of values near 1 that differ by rounding alone


@dataclass(frozen=True)
class Range:
    """What is healthy of one quantity.

    Args:
        quantity: what is looked at. label: in words.
        value: of a row; None where it says nothing. low, high: ends of the range, for the row.
        to: "first": the value is divided by that of the first layer; "last": by the largest one in the last quarter of
            the network, whose branches may begin closed.
        why: of these ends, with the source.
        title, wrong, do: when it is left at this side: in a few words, with numbers, and what helps.
        grave: the network is not healthy then; else it is a remark. most: only if half of the layers are outside.
    """

    quantity: str
    label: str
    value: Callable[[Row], float | None]
    high: float
    low: Callable[[Row], float]
    why: str
    title: Mapping[Side, str]
    wrong: Mapping[Side, str]
    do: Mapping[Side, str]
    to: Literal["", "first", "last"] = ""
    grave: bool = True
    most: bool = False


def _of(name: str) -> Callable[[Row], float | None]:
    return lambda row: getattr(row, name)


def _open(name: str) -> Callable[[Row], float | None]:
    """Of layers whose output is not closed by γ = 0."""
    return lambda row: None if row.closed else getattr(row, name)


def _per_value(row: Row) -> float | None:
    return None if row.gradient_norm is None or not row.size else row.gradient_norm / row.size**0.5


def _size_of_weight(row: Row) -> float | None:
    return None if row.weight is None else math.hypot(row.weight.mean, row.weight.spread)


def _rank_of_alike(row: Row) -> float:
    """The stable rank of N examples all pairs of which have the cosine `ALIKE`: N / (1 + (N - 1) ALIKE)."""
    examples = row.shape[0] if row.shape else 1
    return examples / (1 + (examples - 1) * ALIKE)


_APART: Mapping[Side, str] = {
    "high": "use smaller groups, or a norm with statistics of the batch: normlab.convert(model, 'batch'); skip "
    "connections keep examples apart too. normlab screen ranks the choices",
}

RANGES = (
    Range(
        "weight",
        "size of γ",
        _size_of_weight,
        3.0,
        lambda _: 0.0,
        "γ multiplies what leaves a layer and every gradient that comes back through it; it starts at 1 or below and "
        "hardly drifts in training (Davis & Frank, sec. 3)",
        {"high": "γ is far too large"},
        {"high": "γ is {worst:.2g} (rms), where training starts at 1 or below and hardly moves it"},
        {"high": "start it smaller: normlab.recipe('revisited(scale=0.1)').prepare(model)"},
        most=True,
    ),
    Range(
        "sigma",
        "σ",
        _of("sigma"),
        math.inf,
        lambda _: CONSTANT,
        "below it is the rounding of a constant. A layer may be closed by γ = 0 where its branch is added to "
        "something; with nothing added, all examples are the same behind it, and no gradient comes back",
        {"low": "layers get values that do not vary"},
        {"low": "what is normalized does not vary: σ is down to {worst:.1g}"},
        {"low": "look at what comes before: γ = 0 with no skip connection around it, dead channels, a constant input"},
    ),
    Range(
        "gradient_factor",
        "gradient factor γ/σ",
        _open("gradient_factor"),
        100.0,
        lambda _: 0.0,
        "gradients are multiplied by it (Davis & Frank, Eq. 12). Small kernels give small σ and take back what it "
        "gives; but at 316 = 1/√eps of the usual eps the layer divides by eps, since its input is all but constant",
        {"high": "a layer divides by next to nothing"},
        {"high": "γ/σ is {worst:.2g}: the layer gets all but constant values and amplifies what noise there is"},
        {"high": "look at what it gets: dead channels, one value per group, inputs far smaller than eps"},
    ),
    Range(
        "large_values",
        "share of |x̂| > 6",
        _of("large_values"),
        1e-3,
        lambda _: 0.0,
        "2e-9 of a Gaussian; trained networks have some (Davis & Frank, sec. 3), up to thousandths are seen",
        {"high": "some values are far out"},
        {"high": "{worst:.1%} of x̂ are beyond 6, where a Gaussian has 2e-9"},
        {"high": "look for outliers in the data, and channels that are almost always 0"},
        grave=False,
    ),
    Range(
        "activation_variance",
        "activation variance",
        _open("activation_variance"),
        1e3,
        lambda _: 1e-6,
        "relative to the first layer. Normalizing activations keeps it near 1, or makes it grow in proportion to "
        "depth at most; growth by factors is exponential, as of weight normalizers in residual nets (Beyond BatchNorm)",
        {"high": "activations grow by factors", "low": "activations die away"},
        {
            "high": "the variance of activations grows to {worst:.2g} times that of the first layer",
            "low": "the variance of activations falls to {worst:.2g} of that of the first layer",
        },
        {
            "high": "normalize the activations of every branch, or start the branches small",
            "low": "normalize activations, or scale the initial weights to what goes in (Kaiming's for ReLU)",
        },
        to="first",
    ),
    Range(
        "mean_cosine",
        "mean cosine",
        _open("mean_cosine"),
        ALIKE,
        lambda _: -math.inf,
        "of two different examples; 0.3 to 0.9 behind a ReLU. Near 1 the layer no longer tells them apart, and "
        "training is slow or fails (Beyond BatchNorm, on large groups)",
        {"high": "the layers stop telling examples apart"},
        {"high": "the examples are all but alike to the layers: mean cosine up to {worst:.3f}"},
        _APART,
    ),
    Range(
        "stable_rank",
        "stable rank",
        _open("stable_rank"),
        math.inf,
        _rank_of_alike,
        f"the rank where all pairs have cosine {ALIKE}: about 1, one direction for all examples (Beyond BatchNorm)",
        {"low": "the layers stop telling examples apart"},
        {"low": "the examples point in one direction: stable rank down to {worst:.3f}"},
        {"low": _APART["high"]},
    ),
    Range(
        "gradient_norm",
        "gradient norm",
        _per_value,
        1e3,
        lambda _: 1e-4,
        "per value, relative to the last layers. One learning rate serves all layers within a few powers of ten; small "
        "groups and instance norm exceed that early in deep networks (Beyond BatchNorm)",
        {"high": "gradients explode", "low": "gradients vanish"},
        {
            "high": "gradients explode on their way back: up to {worst:.2g} times that of the last layers",
            "low": "gradients vanish on their way back: down to {worst:.2g} of that of the last layers",
        },
        {
            "high": "add skip connections, use larger groups, or start γ smaller: "
            "normlab.recipe('revisited(scale=0.1)').prepare(model)",
            "low": "add skip connections, or normalize activations rather than kernels",
        },
        to="last",
    ),
    Range(
        "lag",
        "lag of running means",
        _of("lag"),
        1.0,
        lambda _: 0.0,
        "in eval mode the layer subtracts a mean that is off by more than a standard deviation",
        {"high": "running statistics lag behind"},
        {"high": "running means are off by up to {worst:.2g} standard deviations from this batch's"},
        {"high": "normlab.recalibrate(model, loader), if the data are those of training; normlab doctor says more"},
        grave=False,
    ),
)


def range_of(quantity: str) -> Range:
    """The range of a quantity that has one."""
    return next(range for range in RANGES if range.quantity == quantity)
