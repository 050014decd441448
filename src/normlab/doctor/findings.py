"""What the rules found, and the ways to show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any

from normlab.doctor import sarif, text
from normlab.doctor.base import Evidence, Kind, Level, Rule


@dataclass(frozen=True)
class Finding:
    """A failure in this model; or a rule that raised, if `failed`.

    Args:
        id, name, kind, level, why, fix, url: of the rule.
        text: what was found, with the measured numbers. numbers: by name.
        layers: in the order of the model.
        processes: that have it, where there are several and not all do.
    """

    id: str
    name: str
    kind: Kind
    level: Level
    text: str
    why: str
    fix: str
    url: str
    layers: tuple[str, ...] = ()
    numbers: Mapping[str, float | int | str] = field(default_factory=dict)
    processes: tuple[int, ...] = ()
    failed: bool = False


@dataclass(frozen=True)
class Unchecked:
    """A rule that could not be checked, and why."""

    id: str
    name: str
    reason: str


def finding(rule: Rule, evidence: Evidence) -> Finding:
    """The rule's finding with this evidence."""
    return Finding(
        rule.id,
        rule.name,
        rule.kind,
        rule.level,
        evidence.text,
        rule.why,
        evidence.fix or rule.fix,
        rule.url,
        evidence.layers,
        evidence.numbers,
    )


def crash(rule: Rule, error: str) -> Finding:
    """The finding that a rule raised."""
    why = "nothing is known about this failure; the other rules were checked"
    fix = f"please report it; until then --ignore {rule.id}"
    return Finding(rule.id, rule.name, rule.kind, "error", f"could not run: {error}", why, fix, rule.url, failed=True)


def plain(numbers: Mapping[str, float | int | str]) -> dict[str, float | int | str]:
    """NaN and infinities as texts."""
    return {key: value if isinstance(value, str) or isfinite(value) else str(value) for key, value in numbers.items()}


@dataclass(frozen=True)
class Findings:
    """The result of `normlab.doctor`; its text is the report.

    Args:
        subject: the model, its norms, where and with what batch it was run.
        findings: in the order of the rules.
        clean: ids of the rules that found nothing.
        unchecked: the rules that could not be checked, with the reason.
        notes: what else is to be known.
        failure: why the model does not run on the batch; None if it does, or there is none.
        source: file and line where the model is defined, for SARIF; None where that is an installed package.
    """

    subject: str
    findings: tuple[Finding, ...]
    clean: tuple[str, ...]
    unchecked: tuple[Unchecked, ...]
    notes: tuple[str, ...] = ()
    failure: str | None = None
    source: tuple[str, int] | None = None

    @property
    def exit_code(self) -> int:
        """0: clean; 1: findings; 2: nothing was found, and a rule, or the model on the batch, could not run."""
        if any(not found.failed for found in self.findings):
            return 1
        return 2 if self.findings or self.failure is not None else 0

    def __bool__(self) -> bool:
        return bool(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    def table(self, width: int = 100) -> str:
        """The report as plain text, no line longer than the width if its words are not."""
        return "\n".join(line for line, _ in text.lines(self, width))

    __str__ = table

    def as_json(self) -> dict[str, Any]:
        """All of it, for `json.dumps`; numbers that JSON does not have are texts."""
        return {
            "subject": self.subject,
            "exit_code": self.exit_code,
            "findings": [asdict(found) | {"numbers": plain(found.numbers)} for found in self.findings],
            "clean": list(self.clean),
            "not_checked": [asdict(rule) for rule in self.unchecked],
            "notes": list(self.notes),
            "failure": self.failure,
        }

    def sarif(self) -> dict[str, Any]:
        """A SARIF 2.1.0 log, for `json.dumps`: what GitHub and other CI systems show beside the code."""
        return sarif.log(self)
