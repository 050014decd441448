"""A recipe: the values that define it, and what it does with them."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn

from normlab.errors import SpecError, UnknownName
from normlab.layers.batch import FORMULATIONS, Formulation
from normlab.recipes.fan_in import init_fan_in
from normlab.recipes.groups import RULES, Rule, build_groups, check_cover
from normlab.recipes.input_norm import SIGMA_RELU_PAPER, input_channels, normalize_input
from normlab.recipes.prepare import ScalePlan, ZeroScale, check_model, plan_scales, set_formulation, set_scales
from normlab.registry import Registry
from normlab.seeding import Streams

Init = Literal["fan_in", "keep"]

_CHOICES = {"zero_scale": get_args(ZeroScale), "formulation": FORMULATIONS, "init": get_args(Init)}


@dataclass(frozen=True)
class Recipe:
    """Initial values and parameter groups for networks with batch normalization, trained from scratch.

    Its repr is a spec: `recipe(repr(r)) == r`.

    Args:
        name: what it is registered as.
        scale: γ₀ in (0, 1], initial value of the weight of every BatchNorm.
        lr_divisor: c >= 1; these weights learn at lr / c.
        input_norm: a BatchNorm on the input, of initial weight γ₀ · sigma_act.
        zero_scale: "keep" leaves weights that are all 0 (zero-initialised residual branches), "overwrite" does not.
        formulation: of BatchNorm; see `layers.batch`.
        init: "fan_in" draws weights as the paper does; "keep" leaves the model's own.
        sigma_act: standard deviation of the activation function on N(0, 1); `SIGMA_RELU` is exact for ReLU.

    Raises:
        SpecError: a value that cannot be used.

    Source: Davis and Frank, arXiv:2110.13989, secs. 3 and 4.
    """

    name: str
    scale: float
    lr_divisor: float
    input_norm: bool = True
    zero_scale: ZeroScale = "keep"
    formulation: Formulation = "standard"
    init: Init = "fan_in"
    sigma_act: float = SIGMA_RELU_PAPER

    def __post_init__(self) -> None:
        self._check("scale", 0 < _number(self.scale) <= 1, "a number in (0, 1]")
        self._check(
            "lr_divisor",
            1 <= _number(self.lr_divisor) < math.inf,
            "a number >= 1; use 1 for the full rate (the official code's c = 0 means that too)",
        )
        self._check("sigma_act", 0 < _number(self.sigma_act) < math.inf, "a number > 0, 0.58 for ReLU")
        self._check("input_norm", type(self.input_norm) is bool, "True or False")
        for key, choices in _CHOICES.items():
            if getattr(self, key) not in choices:
                raise UnknownName(key, getattr(self, key), choices, where=f"recipe {self.name!r}: ")

    def _check(self, key: str, good: bool, wanted: str) -> None:
        if not good:
            raise SpecError(f"recipe {self.name!r}: {key}={getattr(self, key)!r} should be {wanted}")

    def __repr__(self) -> str:
        arguments = inspect.signature(RECIPES[self.name]).parameters
        return f"{self.name}({', '.join(f'{key}={getattr(self, key)!r}' for key in arguments)})"

    def plan(self, model: nn.Module) -> ScalePlan:
        """Which scales `prepare` sets and which it keeps; print it to see how many. Changes nothing."""
        return plan_scales(model, self.zero_scale)

    def prepare(
        self,
        model: nn.Module,
        *,
        streams: Streams | None = None,
        in_channels: int | None = None,
        force: bool = False,
    ) -> nn.Module:
        """Give the model its initial values, in place, and normalize its input. Make the optimizer afterwards.

        Args:
            streams: where weights are drawn from, each from `streams.torch("init", name)`; None takes one seed
                from torch's default generator, so that `torch.manual_seed` governs it.
            in_channels: of the input; None takes those of the first convolution or fully connected layer.
            force: also overwrite a model that has been trained.

        Returns:
            The model, inside an `InputNormalized` where `input_norm` is set.

        Raises:
            SpecError: a model that the recipe cannot act on; see the message.
        """
        check_model(model, force=force)
        channels = input_channels(model) if self.input_norm and in_channels is None else in_channels
        if self.init == "fan_in":
            init_fan_in(model, streams or _streams_of_torch())
        set_scales(model, self.scale, self.zero_scale)
        if self.formulation != "standard":
            set_formulation(model, self.formulation)
        if not self.input_norm or channels is None:
            return model
        return normalize_input(model, channels, scale=self.scale * self.sigma_act)

    def param_groups(
        self, model: nn.Module, *, lr: float, weight_decay: float = 0.0, rule: Rule = "role"
    ) -> list[dict[str, Any]]:
        """Optimizer groups that cover each trainable parameter once; see `recipes.groups` for who goes where.

        Args:
            lr: learning rate of all but the scales of batch normalization, which learn at lr / c.
            weight_decay: of the weights; nothing else decays.
            rule: "role" decides by type of module; "name_shape" is the official code's rule, with its errors.

        Returns:
            Groups named no_decay, norm_scale, weight, in this order, without empty ones.

        Raises:
            SpecError: a rate that is not a number >= 0, or nothing to train.
        """
        if rule not in RULES:
            raise UnknownName("rule", rule, RULES)
        for key, value in (("lr", lr), ("weight_decay", weight_decay)):
            if not 0 <= _number(value) < math.inf:
                raise SpecError(f"param_groups: {key}={value!r} should be a number >= 0")
        groups = build_groups(
            model.named_parameters(),
            RULES[rule](model),
            lr=lr,
            weight_decay=weight_decay,
            lr_divisor=self.lr_divisor,
        )
        check_cover(model, groups)
        return groups


RECIPES: Registry[Recipe] = Registry("recipe")


def recipe(spec: str) -> Recipe:
    """Build a recipe: `recipe("revisited(scale=0.1, lr_divisor=100)")`.

    Raises:
        UnknownName: no such recipe, or it takes no such argument.
        SpecError: a value that cannot be used.
    """
    return RECIPES.create(spec)


def _number(value: Any) -> float:
    """The value, or NaN, which no range holds, where it is no number."""
    return math.nan if isinstance(value, bool) or not isinstance(value, (int, float)) else float(value)


def _streams_of_torch() -> Streams:
    return Streams(int(torch.randint(2**63 - 1, ()).item()))
