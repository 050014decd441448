"""Results of a study: what the store holds, as scores, comparisons and a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from numpy.typing import NDArray

from normlab.study.agenda import needless, read_log
from normlab.study.description import heading, methods
from normlab.study.looked import about_changes, about_futility, about_looks, as_looked_at
from normlab.study.looks import looks_at
from normlab.study.plan import RunSpec
from normlab.study.point import Point, as_table
from normlab.study.published import reproductions
from normlab.study.report.document import Document, Failure, Panel
from normlab.study.result import RunResult
from normlab.study.spec import Protocol, StudySpec
from normlab.study.stats import compare
from normlab.study.stats.result import Comparisons, Floats, Scores, Settings
from normlab.study.stats.stopping.judge import Stopping
from normlab.study.store import Store
from normlab.study.usable import about_arithmetic, about_data, check_metric, without_metric

UNDRAWN = ("lr", "seconds")  # kept of every epoch, and no finding


@dataclass(frozen=True)
class Results:
    """Everything finished of a study.

    Attributes:
        runs: one for each arm, seed and grid point.
        arms: name → how it is defined.
        finished: key → result.
        failures: key → traceback of runs that raised.
        log: the looks that the stopping rule has made, as the store has them.
    """

    protocol: Protocol
    runs: tuple[RunSpec, ...]
    arms: Mapping[str, str]
    finished: Mapping[str, RunResult]
    failures: Mapping[str, str]
    log: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def gather(cls, protocol: Protocol, runs: tuple[RunSpec, ...], arms: Mapping[str, str], store: Store) -> Results:
        """Read the store; a damaged result, and one without the metric, counts as a failure that says so."""
        keys = dict.fromkeys(run.key for run in runs)
        finished, damaged = store.load_all(keys)
        failures = {key: f"{text}; `normlab run` makes the run again" for key, text in damaged.items()}
        for key in keys:
            if key not in finished and key not in damaged and (text := store.failure(key)) is not None:
                failures[key] = text
        for key, text in without_metric(protocol.metric, finished).items():
            del finished[key]
            failures[key] = store.failure(key) or text
        for key in failures.keys() & needless(protocol, runs, finished):
            del failures[key]
        return cls(protocol, runs, arms, finished, failures, tuple(read_log(store)))

    @property
    def points(self) -> tuple[Point, ...]:
        """The grid points, in order; one empty point where the study has no grid."""
        return tuple(dict.fromkeys(run.point for run in self.runs))

    def scores(self, point: Point = ()) -> Scores:
        """The study's metric, [arms, seeds], at one grid point.

        Raises:
            UnknownName: several runs are finished, and none has the metric.
        """
        check_metric(self.protocol.metric, self.finished.values())
        runs = [run for run in self.runs if run.point == point]
        results = {(run.arm, str(run.seed)): self.finished.get(run.key) for run in runs}
        arms, seeds = tuple(self.arms), tuple(str(seed) for seed in self.protocol.seeds)
        values = np.array([[self._value(results.get((arm, seed))) for seed in seeds] for arm in arms], dtype=float)
        diverged = {at for at, result in results.items() if result is not None and result.status == "diverged"}
        counted_as = {r.counted_as for at in diverged if (r := results[at]) is not None and r.counted_as}
        if any(np.isnan(values[arms.index(arm), seeds.index(seed)]) for arm, seed in diverged):
            counted_as.add("the worst value of the two arms compared")
        return Scores(
            metric=self.protocol.metric,
            arms=arms,
            seeds=seeds,
            values=values,
            unit="%" if self.protocol.metric.endswith("accuracy") and np.nanmax(values, initial=0) > 1 else "",
            diverged=frozenset(diverged),
            failed=frozenset((run.arm, str(run.seed)) for run in runs if run.key in self.failures),
            diverged_as="; ".join(sorted(counted_as)),
            correct=_correctness(results, arms, seeds),
            seeded=frozenset(arm for arm in arms if _differ([r for (a, _), r in results.items() if a == arm])),
        )

    def compare(self) -> Document:
        """All arms against the baseline at each grid point, with everything a report shows; prints as a table."""
        finished = list(self.finished.values())
        return Document(
            name=self.protocol.name,
            question=self.protocol.question,
            panels=tuple(self._panel(point) for point in self.points),
            spec=tomli_w.dumps(definition(self.protocol, self.arms)),
            arms=self.arms,
            methods=methods(self.protocol),
            environment=_environment(finished),
            failures=tuple(self._failure(run) for run in self.runs if run.key in self.failures),
            runs=(len(finished), len({run.key for run in self.runs})),
            needless=len(needless(self.protocol, self.runs, self.finished) - set(self.finished)),
            seconds=sum(result.seconds for result in finished) if finished else None,
        )

    def write(self, directory: str | Path) -> Path:
        """Write report.html, report.md, results.csv, results.json and table.tex; returns the HTML file's path."""
        from normlab.study.report.files import write_all

        return write_all(self.compare(), Path(directory))

    def _value(self, result: RunResult | None) -> float:
        value = None if result is None else result.metrics.get(self.protocol.metric)
        return np.nan if value is None else value

    def _panel(self, point: Point) -> Panel:
        analysis, family = self.protocol.analysis, self.protocol.family.arms
        settings = Settings(
            baseline=self.protocol.baseline, family=tuple(family) if family else None, **analysis.model_dump()
        )
        varied = as_table(point)
        title = " · ".join([*heading(self.protocol, varied), *(f"{key} {value}" for key, value in varied.items())])
        comparisons = self._compare(point, settings, title)
        beside = reproductions(self.protocol.published, comparisons.scores, point, self.points, analysis.confidence)
        return Panel(comparisons, self._curves(point), beside)

    def _compare(self, point: Point, settings: Settings, title: str) -> Comparisons:
        scores, looks = self.scores(point), looks_at(self.protocol, self.runs, point, self.finished)
        if looks is None:
            found, notes = compare(scores, settings, title), ()
        else:
            found = compare(as_looked_at(scores, looks), settings, title, Stopping(looks.design, looks.courses))
            notes = (*about_futility(found), *about_looks(looks))
        used = [self.finished[run.key] for run in self.runs if run.point == point and run.key in self.finished]
        alike = *about_data(used), *about_arithmetic(used)
        changes = about_changes(point, self.protocol, found.family, self.log)
        return replace(found, findings=(*changes, *alike, *found.findings, *notes))

    def _curves(self, point: Point) -> dict[str, dict[str, Floats]]:
        runs = [run for run in self.runs if run.point == point and run.key in self.finished]
        names = dict.fromkeys(name for run in runs for name in self.finished[run.key].curves if name not in UNDRAWN)
        return {name: {arm: _stack(self._rows(runs, arm, name)) for arm in self.arms} for name in names}

    def _rows(self, runs: list[RunSpec], arm: str, name: str) -> list[Floats]:
        curves = [self.finished[run.key].curves.get(name, []) for run in runs if run.arm == arm]
        return [np.array([np.nan if v is None else v for v in curve], dtype=float) for curve in curves]

    def _failure(self, run: RunSpec) -> Failure:
        text = self.failures[run.key]
        at = " ".join(f"{key}={value}" for key, value in as_table(run.point).items())
        return Failure(run.arm, f"{run.seed} {at}".strip(), text.strip().splitlines()[-1], text)


def definition(protocol: Protocol, arms: Mapping[str, str]) -> dict[str, Any]:
    """The study with every default written out, as a study file would have it."""
    tree = _without_empty(protocol.model_dump(mode="json", exclude_none=True))
    count = len(protocol.seeds)
    if protocol.seeds == list(range(1, count + 1)):
        tree["seeds"] = count
    return tree if isinstance(protocol, StudySpec) else {**tree, "arms": dict(arms)}


def _without_empty(tree: dict[str, Any]) -> dict[str, Any]:
    tables = {key: _without_empty(value) if isinstance(value, dict) else value for key, value in tree.items()}
    return {key: value for key, value in tables.items() if value != {}}


def _differ(results: list[RunResult | None]) -> bool:
    """Whether any metric of the runs that ended well has more than one value."""
    ended = [result.metrics for result in results if result is not None and result.status == "ok"]
    return any(len({metrics.get(name) for metrics in ended}) > 1 for name in set().union(*ended))


def _correctness(
    results: Mapping[tuple[str, str], RunResult | None], arms: tuple[str, ...], seeds: tuple[str, ...]
) -> dict[str, NDArray[np.bool_]] | None:
    """Arm → [seeds, examples] bool; None unless every finished run said it, for equally many examples."""
    known = {at: None if r is None else r.correctness() for at, r in results.items()}
    sizes = {len(c) for c in known.values() if c is not None}
    silent = any(r is not None and r.status == "ok" and known[at] is None for at, r in results.items())
    if len(sizes) != 1 or silent:
        return None
    wrong = np.zeros(sizes.pop(), dtype=bool)
    rows = {at: wrong if c is None else c for at, c in known.items()}
    return {arm: np.stack([rows.get((arm, seed), wrong) for seed in seeds]) for arm in arms}


def _stack(rows: list[Floats]) -> Floats:
    """[seeds, epochs], NaN behind the end of a shorter curve."""
    table = np.full((len(rows), max(map(len, rows), default=0)), np.nan)
    for line, row in zip(table, rows, strict=True):
        line[: len(row)] = row
    return table


def _environment(results: list[RunResult]) -> dict[str, str]:
    """Label → value; where runs differ, each value with how many runs had it."""
    labels = dict.fromkeys(label for result in results for label in result.environment)
    counts = {label: Counter(r.environment.get(label, "unknown") for r in results) for label in labels}
    return {
        label: next(iter(seen)) if len(seen) == 1 else ", ".join(f"{value} ({n} runs)" for value, n in seen.items())
        for label, seen in counts.items()
    }
