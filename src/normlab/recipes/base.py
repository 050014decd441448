"""A recipe: the values that define it, and what it does with them."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from normlab.errors import SpecError, UnknownName
from normlab.layers.rules import training_rules
from normlab.recipes import prepare as steps
from normlab.recipes.explain import Explanation, explain
from normlab.recipes.fan_in import init_fan_in
from normlab.recipes.groups import RULES, Rule, build_groups, check_cover
from normlab.recipes.input_norm import input_channels, normalize_input
from normlab.recipes.prepare import ScalePlan
from normlab.recipes.scope import chosen_sites
from normlab.recipes.values import Values, number
from normlab.recipes.verify import Finding, divisors, find, groups_of
from normlab.recipes.wrapped import bare, check_whole
from normlab.registry import Call, Registry
from normlab.seeding import Streams
from normlab.surgery.trial import Sample
from normlab.surgery.wrapped import unwrap

_LATER = {("norms", "batch"), ("scope", "all"), ("scaled_eps", False)}


@dataclass(frozen=True, repr=False)
class Recipe(Values):
    """Initial values and parameter groups for networks with normalization layers, trained from scratch.

    Its fields are those of `Values`. Its repr is a spec: `recipe(repr(r)) == r`.

    Source: Davis and Frank, arXiv:2110.13989, secs. 3 and 4.
    """

    def __repr__(self) -> str:
        return str(Call(self.name, {key: getattr(self, key) for key in sorted(RECIPES.hints(self.name))}))

    def plan(self, model: nn.Module) -> ScalePlan:
        """Which scales `prepare` sets and which it keeps; print it to see how many. Changes nothing."""
        return steps.plan_scales(model, self.zero_scale, self.norms, self.scope)

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
            model: a compiled one is changed inside; DDP and FSDP come afterwards.
            streams: where weights are drawn from, each from `streams.torch("init", name)`; None takes one seed
                from torch's default generator, so that `torch.manual_seed` governs it.
            in_channels: of the input; None takes those of the first convolution or fully connected layer.
            force: also overwrite a model that has been trained.

        Returns:
            The model, inside an `InputNormalized` where `input_norm` is set.

        Raises:
            SpecError: a model that the recipe cannot act on; see the message.
        """
        root = unwrap(model)
        plan = steps.check_model(root, self, force=force)
        channels = input_channels(root) if self.input_norm and in_channels is None else in_channels
        if streams is None and (self.init == "fan_in" or self.to is not None):
            streams = Streams(int(torch.randint(2**63 - 1, ()).item()))
        if self.init == "fan_in" and streams is not None:
            init_fan_in(root, streams)
        new = steps.apply(root, self, plan, streams)
        logging.getLogger("normlab").info("%s: %s", self.name, plan)
        model = model if new is root else new
        if not self.input_norm or channels is None:
            return model
        return normalize_input(model, channels, scale=(self.scale or 1.0) * self.sigma_act, trained=self.train_scale)

    def param_groups(
        self, model: nn.Module, *, lr: float, weight_decay: float = 0.0, rule: Rule = "role"
    ) -> list[dict[str, Any]]:
        """Optimizer groups that cover each trainable parameter once; see `recipes.groups` for who goes where.

        Args:
            model: prepared; wrapped ones too (DDP, torch.compile).
            lr: learning rate of all but the scales of batch normalization, which learn at lr / c.
            weight_decay: of the weights; nothing else decays.
            rule: "role" decides by type of module; "name_shape" is the official code's rule, with its errors.

        Returns:
            Groups named no_decay, norm_scale, weight, norm_shift, and those of layers with training rules of their
            own, in this order, without empty ones.

        Raises:
            SpecError: a rate that is not a number >= 0, nothing to train, a parameter that would land in two groups,
                scales that should be fixed and are not.
        """
        self._check_arguments(rule, lr=lr, weight_decay=weight_decay)
        model = bare(model)
        check_whole(model)
        sites = chosen_sites(model, self.norms, self.scope)
        if not self.train_scale:
            steps.check_fixed(sites, self.name)
        own = {r.group: r for _, _, r in training_rules(model)} if rule == "role" else {}
        groups = build_groups(
            model.named_parameters(),
            RULES[rule](model, sites),
            lr=lr,
            weight_decay=weight_decay,
            lr_divisor=self.lr_divisor,
            factor=self.factor,
            rules=own,
        )
        check_cover(model, groups)
        return groups

    def _check_arguments(self, rule: str, **rates: float) -> None:
        if rule not in RULES:
            raise UnknownName("rule", rule, RULES)
        if rule == "name_shape" and (self.norms, self.scope, self.factor) != ("batch", "all", 1):
            raise SpecError(
                "rule='name_shape' is the official code's, which knows no norms, scope or factor: use 'role'"
            )
        for key, value in rates.items():
            if not 0 <= number(value) < math.inf:
                raise SpecError(f"param_groups: {key}={value!r} should be a number >= 0")

    def max_lr(self, optimizer: object, max_lr: float) -> list[float]:
        """The list that OneCycleLR wants as its `max_lr`, and CyclicLR as `base_lr` and `max_lr`.

        Args:
            optimizer: it, or its groups: those of `param_groups`.
            max_lr: what a group at the full rate gets.

        Raises:
            SpecError: groups that no recipe made, or a rate that is no number >= 0.
        """
        if not 0 <= number(max_lr) < math.inf:
            raise SpecError(f"max_lr={max_lr!r} should be one number >= 0: the rate of what learns at the full rate")
        return [max_lr / divisor for divisor in divisors(groups_of(optimizer))]

    def verify(
        self, optimizer: object, scheduler: object | None = None, *, model: nn.Module | None = None
    ) -> tuple[Finding, ...]:
        """What undoes this recipe in an optimizer, and in a scheduler, tried on a copy; nothing is changed or raised.

        Found are groups that others made (HF Trainer's own) or for another recipe; one rate for all groups, as
        OneCycleLR with one `max_lr` sets it as soon as it is made; a floor such as `eta_min` next to the rate of the
        scales; schedules that do not keep the ratio of the groups; layers whose gradients should be clipped and are
        not; with the model, parameters that the optimizer lacks, or that are not the model's any more after surgery,
        and before the first step scales that are not at γ₀, since `prepare` was forgotten.

        Args:
            optimizer: torch's, or what has `param_groups`, such as SAM.
            scheduler: of torch, of timm, or one that steps alike. It is followed to its end, or for 10,000 steps.
            model: what is to be trained, as it is now.

        Returns:
            Findings, each with what to pass instead; empty where all is well.
        """
        found = find(optimizer, scheduler, model, lr_divisor=self.lr_divisor, factor=self.factor)
        stale = any(finding.rule == "parameters" for finding in found)
        if model is None or stale or getattr(optimizer, "state", None):  # after a step scales may be anywhere
            return found
        off = steps.scales_off(bare(model), self)
        instead = "model = recipe.prepare(model), and then the optimizer"
        return found if off is None else (*found, Finding("prepare", off, instead))

    def explain(
        self, model: nn.Module, batch: Sample | None = None, *, lr: float | None = None, weight_decay: float = 0.0
    ) -> Explanation:
        """A report to print: which parameter is in which group, and what the scales do to the gradients.

        Args:
            model: prepared.
            batch: what the model takes; on it γ / √(σ² + eps), the factor of Eq. 12, is measured for each layer, in one
                forward pass in training mode that leaves no trace. None leaves this part out.
            lr, weight_decay: as for `param_groups`; without lr, rates are given as shares of it.

        Raises:
            as `param_groups`; and what the model raises on the batch.
        """
        groups = self.param_groups(model, lr=1.0 if lr is None else lr, weight_decay=weight_decay)
        return explain(self, bare(model), groups, self.plan(model), batch, relative=lr is None)


RECIPES: Registry[Recipe] = Registry("recipe")


def recipe(spec: str) -> Recipe:
    """Build a recipe: `recipe("revisited(scale=0.1, lr_divisor=100)")`.

    Raises:
        UnknownName: no such recipe, or it takes no such argument.
        SpecError: a value that cannot be used.
    """
    return RECIPES.create(spec)


def canonical(spec: str) -> str:
    """The spec with every default written out, but for arguments that came when runs had been made and hashed.

    Raises:
        as `recipe`.
    """
    made = recipe(spec)
    arguments = {key: getattr(made, key) for key in sorted(RECIPES.hints(made.name))}
    return str(Call(made.name, {key: value for key, value in arguments.items() if (key, value) not in _LATER}))
