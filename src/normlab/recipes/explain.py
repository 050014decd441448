"""A recipe's report on a model: who learns how fast, and what the scales do to the gradients."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from normlab.recipes.input_norm import InputNormalized
from normlab.recipes.measure import LayerFactor, gradient_factors
from normlab.recipes.prepare import ScalePlan, scales_off
from normlab.recipes.scope import chosen_sites
from normlab.recipes.values import Values
from normlab.surgery import norm_type
from normlab.surgery.trial import Sample

NOTABLE = 0.01  # share of the variance from which on eps is told in words
KAIMING = 2.0  # Σ w² of a unit with fan-in initial weights


@dataclass(frozen=True)
class GroupLine:
    """One optimizer group: its name, rate and decay in words, and the parameters in it."""

    name: str
    rate: str
    decay: str
    parameters: tuple[str, ...]
    values: int


@dataclass(frozen=True, repr=False)
class Explanation:
    """What a recipe does to a model; its text is the report.

    Args:
        title: recipe and model, plan: what becomes of the scales.
        groups: every parameter, those that are not trained last.
        layers: as measured on a batch; empty without one.
        notes: what the numbers mean, a sentence or two each.
    """

    title: str
    plan: ScalePlan
    groups: tuple[GroupLine, ...]
    layers: tuple[LayerFactor, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        layers = ["", *_layer_table(self.layers)] if self.layers else []
        notes = ["", *(f"- {note}" for note in self.notes)] if self.notes else []
        return "\n".join([self.title, str(self.plan), "", *_group_table(self.groups), *layers, *notes])

    __repr__ = __str__


def explain(
    values: Values,
    model: nn.Module,
    groups: Sequence[Mapping[str, Any]],
    plan: ScalePlan,
    batch: Sample | None,
    *,
    relative: bool,
) -> Explanation:
    """Put the report together; `relative` gives rates as shares of the learning rate."""
    layers, missing = gradient_factors(model, batch) if batch is not None else ([], [])
    off = scales_off(model, values)
    notes = [f"{off}: trained since, or prepare(model) is to come"] if off else []
    notes += [*_eps_notes(values, model, layers), *_optimizer_notes(values, groups)]
    if missing:
        few = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        notes.append(f"{len(missing)} layers are not in the table, not reached by this batch or of another kind: {few}")
    return Explanation(
        f"{values!r} on {type(model).__name__}, {sum(p.numel() for p in model.parameters()):,} parameters",
        plan,
        tuple(_group_lines(model, groups, relative=relative)),
        tuple(layers),
        tuple(notes),
    )


def _group_lines(model: nn.Module, groups: Sequence[Mapping[str, Any]], *, relative: bool) -> list[GroupLine]:
    names = {id(p): name for name, p in model.named_parameters()}
    lines = [_line(group, names, relative=relative) for group in groups]
    still = [(name, p.numel()) for name, p in model.named_parameters() if not p.requires_grad]
    if still:
        lines.append(GroupLine("not trained", "-", "-", tuple(name for name, _ in still), sum(n for _, n in still)))
    return lines


def _line(group: Mapping[str, Any], names: Mapping[int, str], *, relative: bool) -> GroupLine:
    divisor = group["lr_divisor"]
    share = "lr" if divisor == 1 else f"lr / {divisor:g}" if divisor > 1 else f"lr * {1 / divisor:g}"
    clip = f", gradient clipped to {group['max_norm']:g}" if group.get("max_norm") is not None else ""
    decays = group["name"] == "weight" if relative else group["weight_decay"]
    return GroupLine(
        group["name"],
        (share if relative else f"{group['lr']:g}") + clip,
        "no" if not decays else "yes" if relative else f"{group['weight_decay']:g}",
        tuple(names[id(p)] for p in group["params"]),
        sum(p.numel() for p in group["params"]),
    )


def _group_table(groups: Sequence[GroupLine]) -> list[str]:
    """A line for each group, and below it its parameters, those whose names differ by numbers alone in one."""
    lines: list[str] = []
    for group in groups:
        head = f"{group.name}: learning rate {group.rate}, decay {group.decay}"
        lines.append(f"{head} ({len(group.parameters)} tensors, {group.values:,} values)")
        alike: dict[str, list[str]] = {}
        for name in group.parameters:
            alike.setdefault(re.sub(r"(?!^)\d+", "*", name), []).append(
                name
            )  # the first is the input norm's or the net's
        lines += [f"    {k}  x{len(names)}" if len(names) > 1 else f"    {names[0]}" for k, names in alike.items()]
    return lines


def _layer_table(layers: Sequence[LayerFactor]) -> list[str]:
    width = max(5, *(len(layer.name) for layer in layers))
    lines = [f"{'layer':<{width}}  kind      |γ|      σ²       eps/σ²   γ/√(σ²+eps), gradient factor of Eq. 12"]
    for layer in layers:
        share = f"{100 * layer.eps / layer.var:.2g} %" if layer.var > 0 else "-"
        lines.append(
            f"{layer.name:<{width}}  {layer.kind:<8}  {layer.scale:<7.3g}  {layer.var:<7.2g}  {share:<7}  "
            f"{layer.factor:.3g}"
        )
    return lines


def _eps_notes(values: Values, model: nn.Module, layers: Sequence[LayerFactor]) -> list[str]:
    notes: list[str] = []
    if values.scale is not None:
        var = KAIMING * (values.sigma_act * values.scale) ** 2
        of_input = model[0] if isinstance(model, InputNormalized) else None
        sites = [s for s in chosen_sites(model, values.norms, values.scope) if s.module is not of_input]
        eps = [getattr(s.module, t.eps, None) for s in sites if (t := norm_type(s.module))]
        most = max((value for value in eps if isinstance(value, float)), default=0.0)
        notes.append(
            f"Eq. 15: after a scale of γ₀ = {values.scale:g}, the activation and Kaiming's weights, the variance is "
            f"scaled by γ₀² to {var:.2g}; eps = {most:g} is {_percent(most / var)} of the variance"
            + (_consequence(most / var) if most / var >= NOTABLE else "")
        )
    felt = [layer for layer in layers if layer.var > 0 and layer.eps / layer.var >= NOTABLE]
    if felt:
        worst = max(felt, key=lambda layer: layer.eps / layer.var)
        share = worst.eps / worst.var
        notes.append(
            f"measured: eps is {_percent(NOTABLE)} of the variance or more in {len(felt)} layers, most in "
            f"{worst.name or 'the model'}, {_percent(share)}{_consequence(share)}"
        )
    return notes


def _consequence(share: float) -> str:
    return (
        f": outputs have a standard deviation of {(1 + share) ** -0.5:.2f} instead of 1, which compounds with depth. "
        "A smaller eps, in proportion to γ₀², restores them"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def _optimizer_notes(values: Values, groups: Sequence[Mapping[str, Any]]) -> list[str]:
    notes: list[str] = []
    if values.lr_divisor > 1:
        notes.append(
            f"lr / {values.lr_divisor:g} is not the same with Adam and AdamW as with SGD: they divide each gradient by "
            "its own size, so that a scale moves by about its rate at each step however small its gradient is, where "
            "SGD's step is in proportion to it. The paper's numbers are SGD's; with Adam, tune lr_divisor anew"
        )
    if any(group.get("max_norm") is not None for group in groups):
        notes.append("some layers have training rules: call recipes.attach_rules(optimizer, model) once")
    if values.scale is not None and values.scale < 1:
        notes.append(
            "Eq. 15 takes the activation function to come right before the next convolution. A norm without one "
            "(MobileNetV2's projections, RepVGG's identity branches, shortcuts) shows in the layers after it, by a "
            "factor unlike the others'. scope=... leaves such norms out, which multiplies their own factor by 1 / γ₀ "
            "and that of the layers after them by γ₀: compare the tables"
        )
    return notes
