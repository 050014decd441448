"""The values that define a recipe."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, get_args

from normlab.errors import SpecError, UnknownName
from normlab.layers.batch import FORMULATIONS, Formulation
from normlab.recipes.input_norm import SIGMA_RELU_PAPER
from normlab.recipes.scope import Norms, parse_scope
from normlab.surgery.conversion.targets import read_target

Init = Literal["fan_in", "keep"]
ZeroScale = Literal["keep", "overwrite"]

_CHOICES = {
    "zero_scale": get_args(ZeroScale),
    "formulation": FORMULATIONS,
    "init": get_args(Init),
    "norms": get_args(Norms),
}


class Options(TypedDict, total=False):
    """Arguments that every recipe takes; their defaults and meaning are those of `Values`."""

    input_norm: bool
    init: Init
    sigma_act: float
    norms: Norms
    scope: str


class ScaleOptions(Options, total=False):
    """Arguments of the recipes that start scales small."""

    zero_scale: ZeroScale
    scaled_eps: bool


@dataclass(frozen=True)
class Values:
    """What a recipe does to a model, as numbers and names.

    Args:
        name: what it is registered as.
        scale: γ₀ in (0, 1], initial value of the weight of every BatchNorm; None leaves scales and shifts alone.
        lr_divisor: c >= 1; these weights learn at lr / c.
        input_norm: a BatchNorm on the input, of initial weight γ₀ · sigma_act.
        zero_scale: "keep" leaves weights that are all 0 (zero-initialised residual branches), "overwrite" does not.
        formulation: of BatchNorm; see `layers.batch`.
        init: "fan_in" draws weights as the paper does; "keep" leaves the model's own.
        sigma_act: standard deviation of the activation function on N(0, 1); `SIGMA_RELU` is exact for ReLU.
        norms: "batch" acts on layers that normalize by batch moments, "all" on every normalization layer.
        scope: which of them, by name: "all", or patterns as in "layer*.bn1, !layer4.*"; see `recipes.scope`.
        to: a norm or convolution spec that `convert` puts in their place; None leaves the layers.
        center: of `rbn`: its centering too.
        train_scale: False fixes the weights at their initial values.
        factor: the biases learn at lr · factor.
        scaled_eps: multiplies the layers' eps by γ₀², so that it is the same share of a variance scaled by γ₀².

    Raises:
        SpecError: a value that cannot be used.
    """

    name: str
    scale: float | None
    lr_divisor: float = 1.0
    input_norm: bool = True
    zero_scale: ZeroScale = "keep"
    formulation: Formulation = "standard"
    init: Init = "fan_in"
    sigma_act: float = SIGMA_RELU_PAPER
    norms: Norms = "batch"
    scope: str = "all"
    to: str | None = None
    center: bool = False
    train_scale: bool = True
    factor: float = 1.0
    scaled_eps: bool = False

    def __post_init__(self) -> None:
        self._check("scale", self.scale is None or 0 < number(self.scale) <= 1, "a number in (0, 1]")
        self._check(
            "lr_divisor",
            1 <= number(self.lr_divisor) < math.inf,
            "a number >= 1; use 1 for the full rate (the official code's c = 0 means that too)",
        )
        self._check("sigma_act", 0 < number(self.sigma_act) < math.inf, "a number > 0, 0.58 for ReLU")
        self._check("factor", 0 < number(self.factor) < math.inf, "a number > 0, 64 in airbench")
        for key in ("input_norm", "center", "train_scale", "scaled_eps"):
            self._check(key, type(getattr(self, key)) is bool, "True or False")
        for key, choices in _CHOICES.items():
            if getattr(self, key) not in choices:
                raise UnknownName(key, getattr(self, key), choices, where=f"recipe {self.name!r}: ")
        fits = self.formulation == "standard" or self.norms == "batch"
        self._check("norms", fits, f"'batch': formulation {self.formulation!r} is one of BatchNorm alone")
        parse_scope(self.scope)
        if self.to is not None and read_target(self.to).convolution and (self.norms, self.scope) != ("batch", "all"):
            raise SpecError(f"recipe {self.name!r}: norms and scope choose norms, and {self.to} replaces convolutions")

    def _check(self, key: str, good: bool, wanted: str) -> None:
        if not good:
            raise SpecError(f"recipe {self.name!r}: {key}={getattr(self, key)!r} should be {wanted}")


def number(value: Any) -> float:
    """The value, or NaN, which no range holds, where it is no number."""
    return math.nan if isinstance(value, bool) or not isinstance(value, (int, float)) else float(value)
