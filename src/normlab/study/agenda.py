"""Which run comes when: by seed block, from one look of the stopping rule to the next; and a log of the looks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from normlab.errors import StoreError
from normlab.study.executors.events import Event
from normlab.study.looks import Looks, any_failed, looks_at, wanted
from normlab.study.plan import RunSpec
from normlab.study.point import Point, as_table
from normlab.study.result import RunResult
from normlab.study.spec import Protocol
from normlab.study.stats.stopping import Course
from normlab.study.store import Store

LOG = "decisions.jsonl"


class Agenda:
    """The runs of a study in the order in which they are wanted.

    Args:
        plan: one run for each arm, seed and grid point.
        finished: key → result.
        store: keeps the log and the results to come.

    Attributes:
        total: runs of the study, as far as one can tell: all but those that the rule makes it do without.
    """

    def __init__(
        self, protocol: Protocol, plan: Sequence[RunSpec], finished: Mapping[str, RunResult], store: Store
    ) -> None:
        self.protocol, self.plan, self.store = protocol, plan, store
        self.finished = dict(finished)
        self.failed: set[str] = set()
        self.running: set[str] = set()
        self.asked: dict[Point, set[str]] = {}  # the block that a point waits for; runs may belong to several points
        self.points: dict[Point, None] = dict.fromkeys(run.point for run in plan)
        self.seen: dict[Point, Looks] = {}
        self.total = len({run.key for run in plan})

    def begin(self) -> list[RunSpec]:
        """The runs to start with; all that are not finished where the study does not stop early."""
        if self.protocol.stopping.rule == "fixed":
            return self._add({run.key: run for run in self.plan}.values())
        first = {run.key for point in self.points for run in self._block(point)}
        return list({run.key: run for run in self.plan if run.key in first}.values())

    def after(self, event: Event) -> list[RunSpec]:
        """The runs that are wanted besides, now that this has happened."""
        if event.kind != "ended" or event.run is None or event.outcome is None:
            return []
        key = event.run.key
        self.running.discard(key)
        if self.protocol.stopping.rule == "fixed":
            return []
        result = None if event.outcome.status == "failed" else self.store.load(key)
        if result is None:
            self.failed.add(key)
        else:
            self.finished[key] = result
        points = dict.fromkeys(run.point for run in self.plan if run.key == key)
        return [run for point in points for run in self._block(point)]

    def _block(self, point: Point) -> list[RunSpec]:
        """The next block of a grid point, once the one before is complete."""
        if self.asked.get(point, set()) & self.running:
            return []
        looks = looks_at(self.protocol, self.plan, point, self.finished)
        assert looks is not None
        self._log(looks)
        self.seen[point] = looks
        self.total = self._total()
        block = wanted(looks, self.failed)
        self.asked[point] = {run.key for run in block}
        return self._add(block)

    def _total(self) -> int:
        unseen = {run.key for run in self.plan if run.point not in self.seen}
        return len(_needed(self.seen.values()) | unseen | set(self.finished))

    def _add(self, runs: Iterable[RunSpec]) -> list[RunSpec]:
        new = [r for r in runs if r.key not in self.finished and r.key not in self.running and r.key not in self.failed]
        self.running.update(run.key for run in new)
        return new

    def _log(self, looks: Looks) -> None:
        known = read_log(self.store)
        new: list[dict[str, Any]] = []
        for entry in _entries(self.protocol, looks, self.finished, self.failed):
            before = [e for e in known if (e["point"], e["look"]) == (entry["point"], entry["look"])]
            if not before or any(before[-1].get(k) != v for k, v in entry.items() if k != "rule"):
                time = datetime.now().astimezone().isoformat(timespec="seconds")
                new.append({"time": time, **entry} | ({"revised": True} if before else {}))
        if new:
            self.store.save(LOG, "".join(json.dumps(e, ensure_ascii=False) + "\n" for e in [*known, *new]))


def read_log(store: Store) -> list[dict[str, Any]]:
    """Every look that was made, in the order in which it was; empty where there was none.

    Raises:
        StoreError: the file is damaged.
    """
    try:
        return [json.loads(line) for line in (store.read(LOG) or "").splitlines()]
    except ValueError as error:
        raise StoreError(
            f"{LOG} of {store} is damaged ({error}); move it away, and `normlab run` writes it again"
        ) from None


def needless(protocol: Protocol, plan: Sequence[RunSpec], finished: Mapping[str, RunResult]) -> set[str]:
    """Keys of runs that no grid point will ask for any more, whether or not they were made."""
    seen = [looks_at(protocol, plan, point, finished) for point in dict.fromkeys(run.point for run in plan)]
    if any(looks is None for looks in seen):
        return set()
    return {run.key for run in plan} - _needed(looks for looks in seen if looks is not None)


def _needed(seen: Iterable[Looks]) -> set[str]:
    """Keys of the runs that any of these grid points uses, or may yet."""
    return {run.key for looks in seen for (arm, i), run in looks.runs.items() if i < looks.needed(arm)}


def rule_of(protocol: Protocol, family: Sequence[str]) -> dict[str, Any]:
    """All that decides what a look decides, the results aside.

    Args:
        family: the arms that are compared, whether or not the study file names them.
    """
    stopping, analysis = protocol.stopping, protocol.analysis
    return {
        "rule": stopping.rule,
        "looks": list(stopping.looks_of(len(protocol.seeds))),
        "alpha": analysis.alpha,
        "alternative": analysis.alternative,
        "futility": stopping.futility,
        "metric": protocol.metric,
        "better": analysis.better,
        "baseline": protocol.baseline,
        "family": list(family),
    }


def _entries(
    protocol: Protocol, looks: Looks, finished: Mapping[str, RunResult], failed: set[str]
) -> Iterator[dict[str, Any]]:
    """What each look so far decided; none of a look that still waits for runs that are to be made."""
    seeds = protocol.seeds
    for look, courses in enumerate(looks.history(), start=1):
        pairs = looks.design.looks[look - 1]
        late = [arm for arm, c in courses.items() if c.outcome == "open" and c.looks < look]
        if not all(_waits(protocol, looks, arm, looks.design.looks[courses[arm].looks], failed) for arm in late):
            return
        made = {arm: c for arm, c in courses.items() if look in (c.looks, c.decided)}
        yield {
            "point": as_table(looks.point),
            "look": look,
            "seeds": seeds[:pairs],
            "arms": {arm: _arm(course, looks) for arm, course in made.items()},
            "waiting": late,
            "results": _digest(looks, {protocol.baseline: look} | {a: c.looks for a, c in made.items()}, finished),
            "rule": rule_of(protocol, tuple(looks.courses)),
        }


def _arm(course: Course, looks: Looks) -> dict[str, Any]:
    """One comparison at its last look; numbers to six digits, so that they are the same everywhere."""
    bound = float(looks.design.bounds(course.level)[course.looks - 1])
    numbers = {
        "t": course.t[-1],
        "bound": bound if bound < float("inf") else None,
        "level": course.level,
        "p": course.p,
        "p_holm": course.p_holm,
        "p_holm_worse": course.p_holm_worse,
        "chance": course.chance,
    }
    rounded = {name: None if x is None else float(f"{x:.6g}") for name, x in numbers.items()}
    return {**rounded, "decision": {"open": "go on", "futile": "given up"}.get(course.outcome, course.outcome)}


def _waits(protocol: Protocol, looks: Looks, arm: str, seeds: int, failed: set[str]) -> bool:
    return any_failed(looks, arm, seeds, failed) or any_failed(looks, protocol.baseline, seeds, failed)


def _digest(looks: Looks, made: Mapping[str, int], finished: Mapping[str, RunResult]) -> str:
    """Checksum of the results that the looks went by: arm by arm, run by run, its key and all its metrics."""
    keys = [looks.runs[arm, i].key for arm, look in made.items() for i in range(looks.design.looks[look - 1])]
    lines = [f"{key} {json.dumps(finished[key].metrics, sort_keys=True)}" for key in keys]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
