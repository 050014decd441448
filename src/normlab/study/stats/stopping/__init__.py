"""When to stop adding seeds: group-sequential bounds for t, the e-process, Holm at every look, and what follows."""

from __future__ import annotations

from normlab.study.stats.stopping.after import Adjusted, adjusted
from normlab.study.stats.stopping.chance import chance
from normlab.study.stats.stopping.decide import Course, Outcome, follow, history
from normlab.study.stats.stopping.design import Design, Rule
from normlab.study.stats.stopping.eprocess import EProcess, log_e_value
from normlab.study.stats.stopping.expected import Expected, expected
from normlab.study.stats.stopping.sequential import GroupSequential
from normlab.study.stats.stopping.spending import SPENDING, obrien_fleming, pocock

__all__ = [
    "SPENDING",
    "Adjusted",
    "Course",
    "Design",
    "EProcess",
    "Expected",
    "GroupSequential",
    "Outcome",
    "Rule",
    "adjusted",
    "chance",
    "expected",
    "follow",
    "history",
    "log_e_value",
    "obrien_fleming",
    "pocock",
]
