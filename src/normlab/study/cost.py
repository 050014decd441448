"""What the runs still to make would cost."""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normlab.errors import SpecError
from normlab.study import train as builtin
from normlab.study.executors.local import default_workers
from normlab.study.plan import RunSpec
from normlab.study.run import Options, attempt
from normlab.study.store import Store

if TYPE_CHECKING:
    from normlab.study.study import Status, Study

WORKER_START = 4.0  # seconds until a worker process has loaded torch


@dataclass(frozen=True)
class Cost:
    """Seconds, and how they were found; None of a training function of one's own before its first run is finished."""

    runs: int
    waiting: int
    workers: int
    seconds_per_run: float | None
    seconds: float | None
    source: str

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def estimate(study: Study, status: Status, store: Store, workers: int | None) -> Cost:
    """Wall time of what is left of a study on this machine."""
    waiting = len(study.runs) - len(status.finished)
    count = workers or default_workers(1)
    results = [result for run in status.finished if (result := store.load(run.key)) is not None]
    if results:
        each, source = sum(r.seconds for r in results) / len(results), f"mean of {len(results)} finished runs"
    elif study.train is not builtin.train:  # which has epochs nobody else knows of
        return Cost(len(study.runs), waiting, count, None, None, "unknown before a run is finished")
    else:
        each, source = _measure(study), "measured over three epochs"
    rounds = math.ceil(waiting / count)
    return Cost(len(study.runs), waiting, count, each, rounds * each + (WORKER_START if waiting else 0), source)


def _measure(study: Study) -> float:
    """Seconds of one run: what one and three epochs of the first take, drawn out to all of them."""
    study.rehearse(study.runs)
    run = study.runs[0]
    epochs = run.job["train"]["epochs"]
    with tempfile.TemporaryDirectory() as place:
        store = Store(Path(place)).open(create=True)
        once = [_seconds(study, _shortened(run, n), store) for n in (1, 1, 3)]
    each = max(0.0, (once[2] - once[1]) / 2)
    return once[1] + each * (epochs - 1)


def _shortened(run: RunSpec, epochs: int) -> RunSpec:
    return replace(run, job={**run.job, "train": {**run.job["train"], "epochs": epochs}})


def _seconds(study: Study, run: RunSpec, store: Store) -> float:
    start = time.perf_counter()
    outcome = attempt(study.train, run, store, Options())
    if outcome.status == "failed":
        raise SpecError(f"the first run of the study fails: {outcome.error}")
    return time.perf_counter() - start
