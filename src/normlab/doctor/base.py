"""What a rule is: a failure that people report, the check that finds it, and the line that repairs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from normlab.errors import NormlabError

if TYPE_CHECKING:
    from normlab.doctor.case import Case

Kind = Literal["static", "one-batch", "distributed"]
Level = Literal["error", "warning"]
Need = Literal["batch", "data", "optimizer", "scheduler", "processes"]

NEEDS: Mapping[Need, str] = {
    "batch": "no batch was given",
    "data": "it takes data, and the batch is of random numbers",
    "optimizer": "no optimizer was given",
    "scheduler": "no scheduler was given",
    "processes": "there is one process only: start it with torchrun",
}


class NotChecked(NormlabError):
    """A rule says why it has nothing to say about this model."""


@dataclass(frozen=True)
class Evidence:
    """What a rule has found.

    Args:
        text: one sentence with the measured numbers.
        layers: names of the layers, in the order of the model.
        numbers: the same numbers by name, for programs.
        fix: instead of the rule's own, where the case allows a better one.
    """

    text: str
    layers: tuple[str, ...] = ()
    numbers: Mapping[str, float | int | str] = field(default_factory=dict)
    fix: str | None = None


Check = Callable[["Case"], Evidence | None]


@dataclass(frozen=True)
class Rule:
    """One failure.

    Args:
        id: `NL` and the row of the table of reported failures; its hundreds count the rules about one row.
        name: in words, for `--select` as well.
        kind: what is looked at: the model and what trains it; a batch that runs through it; several processes.
        level: "error" where results are wrong or training stops, "warning" where they get worse.
        why: why it hurts, fix: the line that repairs it.
        thread: where people reported it, `owner/repository#number`.
        needs: without these it is not checked.
        check: the evidence, or None where all is well.
        collect: what each process tells the others, for a distributed rule; `case.told` then has it of all of them.
    """

    id: str
    name: str
    kind: Kind
    level: Level
    why: str
    fix: str
    thread: str
    needs: tuple[Need, ...]
    check: Check
    collect: Callable[[Case], Any] | None = None

    @property
    def url(self) -> str:
        """The thread's address."""
        repository, _, number = self.thread.partition("#")
        return f"https://github.com/{repository}/issues/{number}"


RULES: dict[str, Rule] = {}
"""Every rule by its id."""


def rule(
    id: str,
    name: str,
    *,
    kind: Kind,
    level: Level,
    why: str,
    fix: str,
    thread: str,
    needs: tuple[Need, ...] = (),
    collect: Callable[[Case], Any] | None = None,
) -> Callable[[Check], Rule]:
    """Decorator: the decorated check becomes a rule; see `Rule`."""

    def add(check: Check) -> Rule:
        assert id not in RULES, f"rule {id} is there twice"
        assert name not in {known.name for known in RULES.values()}, f"two rules are called {name}"
        RULES[id] = Rule(id, name, kind, level, why, fix, thread, needs, check, collect)
        return RULES[id]

    return add
