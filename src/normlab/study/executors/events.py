"""What an executor tells the study while it works."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from normlab.study.plan import RunSpec
from normlab.study.run import Outcome

POLL = 0.5  # seconds between two signs of life


@dataclass(frozen=True)
class Event:
    """A run started, ended with `outcome`, or was lost with its process or node and will be tried again.

    "waiting": nothing happened for `POLL` seconds. `note` is for people.
    """

    kind: Literal["started", "ended", "lost", "waiting"]
    run: RunSpec | None = None
    outcome: Outcome | None = None
    note: str = ""
