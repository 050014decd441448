"""What a report shows: gathered once by the caller, read by every writer (terminal, HTML, Markdown, CSV, LaTeX)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from normlab.study.stats.published import Reproductions
from normlab.study.stats.result import Comparisons, Floats


@dataclass(frozen=True)
class Panel:
    """One table of a study: all arms against the baseline at one grid point.

    Attributes:
        comparisons: the statistics.
        curves: metric → arm → [seeds, epochs], what was logged per epoch; NaN behind the end of a diverged run.
            Empty where nothing was logged.
        published: published numbers beside ours; None where the study names none.
    """

    comparisons: Comparisons
    curves: Mapping[str, Mapping[str, Floats]] = field(default_factory=dict[str, Mapping[str, Floats]])
    published: Reproductions | None = None


@dataclass(frozen=True)
class Failure:
    """A run that raised: which, the last line of its traceback, and where the whole of it is kept."""

    arm: str
    seed: str
    error: str
    traceback: str


@dataclass(frozen=True, repr=False)
class Document:
    """A whole report; prints as the table that the terminal shows.

    Attributes:
        name: of the study, `digits`.
        question: one sentence, or "".
        panels: one per grid point, at least one.
        spec: the resolved study as TOML text, or "" (a CSV from elsewhere).
        arms: arm → how it is defined, `revisited(scale=0.1, ...)`, in order.
        methods: facts for the methods paragraph: data, model, training, seeds, in whole sentences.
        environment: label → value, `torch` → `2.13.0`, `processor` → ..., `commit` → ...
        failures: runs that raised.
        runs: how many are finished, of how many planned.
        needless: how many of the others the stopping rule does without.
        seconds: total computing time of the finished runs, or None.
    """

    name: str
    panels: tuple[Panel, ...]
    question: str = ""
    spec: str = ""
    arms: Mapping[str, str] = field(default_factory=dict[str, str])
    methods: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    failures: tuple[Failure, ...] = ()
    runs: tuple[int, int] = (0, 0)
    needless: int = 0
    seconds: float | None = None

    def __str__(self) -> str:
        from rich.console import Console

        from normlab.study.report import terminal

        console = Console()
        with console.capture() as text:
            terminal.show(self, console)
        return text.get()

    def __repr__(self) -> str:
        return f"<report of {self.name!r}: {len(self.panels)} tables, {self.runs[0]} of {self.runs[1]} runs>"
