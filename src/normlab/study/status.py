"""Where a study stands: its runs by state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from normlab.study.agenda import needless
from normlab.study.plan import RunSpec
from normlab.study.result import RunResult
from normlab.study.spec import Protocol
from normlab.study.store import Store
from normlab.study.usable import check_metric, without_metric


@dataclass(frozen=True)
class Status:
    """Where a study stands: its runs by state.

    Attributes:
        started: key of an unfinished run → its share done.
        waiting: among them those that the stopping rule may yet do without.
        needless: not made, because the stopping rule has decided what they are for.
    """

    finished: tuple[RunSpec, ...]
    damaged: tuple[RunSpec, ...]
    failed: tuple[RunSpec, ...]
    started: Mapping[str, float]
    waiting: tuple[RunSpec, ...]
    needless: tuple[RunSpec, ...] = ()


def survey(protocol: Protocol, plan: Sequence[RunSpec], store: Store) -> tuple[Status, dict[str, RunResult]]:
    """Where a study stands, and its results by key.

    Args:
        plan: one run for each arm, seed and grid point; one that several share counts once.

    Raises:
        UnknownName: several runs are finished, and none has the study's metric; one that lacks it has failed.
    """
    runs = {run.key: run for run in plan}
    results, damaged = store.load_all(runs)
    check_metric(protocol.metric, results.values())
    lacking = without_metric(protocol.metric, results)
    results = {key: result for key, result in results.items() if key not in lacking}
    over = needless(protocol, plan, results)
    states: dict[str, list[RunSpec]] = {"finished": [], "damaged": [], "failed": [], "waiting": [], "needless": []}
    started: dict[str, float] = {}
    for key, run in runs.items():
        if key in damaged or key in results or key in over:
            states["damaged" if key in damaged else "finished" if key in results else "needless"].append(run)
        elif key in lacking or store.failure(key) is not None:
            states["failed"].append(run)
        elif (share := store.progress(key)) > 0:
            started[key] = share
        else:
            states["waiting"].append(run)
    return Status(**{state: tuple(found) for state, found in states.items()}, started=started), results
