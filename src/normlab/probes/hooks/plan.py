"""What is to be measured where, decided before the first step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import nn

from normlab.errors import SpecError, came
from normlab.probes.base import PROBES, Place, Probe, Reference, Target
from normlab.probes.hooks.targets import Where, find_targets

Mode = Literal["train", "eval", "both"]
Key = tuple[str, str]
"""Names of a target and a probe."""


@dataclass
class Plan:
    """What is measured, where, and what is known of the model from earlier steps.

    Args:
        probes: by target, those that it does not refuse.
        refused: why the others cannot be measured.
        references: parameters, and what they are compared with.
        followed: by name of a target, the activation module that took its output directly in the last measured step.
    """

    model: nn.Module
    probes: Mapping[Target, Sequence[Probe]]
    refused: Mapping[Key, str]
    mode: Mode
    references: Mapping[Key, Reference] = field(default_factory=dict[Key, Reference])
    followed: dict[str, str] = field(default_factory=dict[str, str])

    def at(self, target: Target, *places: Place) -> list[Probe]:
        """The probes of a target that measure there."""
        return [probe for probe in self.probes[target] if probe.place in places]

    @property
    def gradients(self) -> set[Key]:
        """Whose values are in proportion to the loss."""
        return {(at.name, probe.name) for at in self.probes for probe in self.at(at, "gradient")}

    def keep_references(self) -> None:
        """Remember parameters as they are now."""
        pairs = [(at, probe) for at, probes in self.probes.items() for probe in probes]
        self.references = {(at.name, probe.name): probe.reference(at) for at, probe in pairs if probe.reference}


def make_plan(model: nn.Module, specs: str | Sequence[str], where: Where | None, mode: Mode) -> Plan:
    """Find the layers, and what of these probes can be measured there.

    Raises:
        UnknownName: no such probe or layer.
        SpecError: a probe that can be measured nowhere, or is there twice; no probes, or no layers.
    """
    probes = _create(specs)
    targets = find_targets(model, where)
    reasons = {(at.name, one.name): one.refuses(at) for at in targets for one in probes}
    for one in probes:
        why = next((reasons[at.name, one.name] for at in targets), None)
        if all(reasons[at.name, one.name] is not None for at in targets):
            first = f"{targets[0].name or 'the model'} ({type(targets[0].module).__name__})"
            raise SpecError(f"{one.name} can be measured at none of the {len(targets)} layers: of {first}, {why}")
    fitting = {at: [one for one in probes if reasons[at.name, one.name] is None] for at in targets}
    return Plan(model, fitting, {key: why for key, why in reasons.items() if why is not None}, mode)


def _create(specs: str | Sequence[str]) -> list[Probe]:
    if not isinstance(specs, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise SpecError(f"probes are named by strings, as in ['sigma', 'stable_rank']; got {came(specs)}")
    probes = [PROBES.create(spec) for spec in ([specs] if isinstance(specs, str) else specs)]
    names = [one.name for one in probes]
    if not probes:
        raise SpecError(f"probes=[] names nothing to measure. Known: {', '.join(PROBES)}")
    if len(set(names)) < len(names):
        raise SpecError(f"probes={list(specs)!r} names one twice, and each has one key")
    return probes


def key_of(module: str, probe: str, part: str = "") -> str:
    """`norm/<module>/<probe>`, and `/<part>` of a probe that gives several numbers; the model itself has no name."""
    return "/".join(filter(None, ("norm", module, probe, part)))
