"""What the runs still to make would cost."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from normlab.study import train as builtin
from normlab.study.executors.gpus import placed
from normlab.study.executors.local import team_of
from normlab.study.looks import design_of
from normlab.study.run import Options, threads
from normlab.study.stats.stopping import expected
from normlab.study.store import Store
from normlab.study.training import in_time, rehearse, seconds_of

if TYPE_CHECKING:
    from normlab.study.plan import RunSpec
    from normlab.study.status import Status
    from normlab.study.study import Study

WORKER_START = 4.0  # seconds until a worker process has loaded torch
PATIENCE = 10.0  # seconds after which no further network is set up, and none is measured


@dataclass(frozen=True)
class Forecast:
    """What a stopping rule makes of a whole study in which every arm gains equally.

    Attributes:
        effect: gain in SDs of a paired difference.
        found: share of arms that are found better.
        seeds: mean number of an arm.
        runs: mean number of the study.
        seconds: mean wall time of the study; None where that of a run is not known.
    """

    effect: float
    found: float
    seeds: float
    runs: float
    seconds: float | None


@dataclass(frozen=True)
class Cost:
    """Seconds, and how they were found; None of a training function of one's own before its first run is finished.

    Attributes:
        waiting: runs to do, at most.
        networks: how many were set up, which tells what would stop a run, and how many there are.
        bounds: [looks] of t, at the level of Holm's first step; empty without a stopping rule.
        forecasts: for gains of several sizes; empty without a stopping rule.
    """

    runs: int
    waiting: int
    workers: int
    seconds_per_run: float | None
    seconds: float | None
    source: str
    networks: tuple[int, int] = (0, 0)
    bounds: tuple[float | None, ...] = ()
    forecasts: tuple[Forecast, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def estimate(study: Study, status: Status, store: Store, workers: int | None) -> Cost:
    """Wall time of what is left of a study on this machine, and what its stopping rule is expected to spare."""
    waiting = len(study.runs) - len(status.finished) - len(status.needless)
    takes = study.protocol.resources
    options = placed(
        Options(device="auto", threads=takes.cpus, devices=takes.devices, gpus=takes.gpus), torch.cuda.is_available()
    )
    count = len(team_of(options, workers))
    with threads(takes.cpus):
        networks = _rehearsed(study, status)
        each, source = _seconds_per_run(study, status, store, options.device)
    return Cost(
        runs=len(study.runs),
        waiting=waiting,
        workers=count,
        seconds_per_run=each,
        seconds=_wall(waiting, each, count),
        source=source,
        networks=networks,
        bounds=_bounds(study),
        forecasts=tuple(_forecasts(study, each, count)),
    )


def _rehearsed(study: Study, status: Status) -> tuple[int, int]:
    if study.train is not builtin.train:
        return 0, 0
    runs = [run for run in _of_a_seed(study) if run not in status.finished]
    devices = study.protocol.resources.devices
    return rehearse([(run.arm, run.job) for run in runs], devices, seconds=PATIENCE)


def _of_a_seed(study: Study) -> list[RunSpec]:
    return [run for run in study.runs if run.seed == study.protocol.seeds[0]]


def _seconds_per_run(study: Study, status: Status, store: Store, device: str) -> tuple[float | None, str]:
    results = [result for run in status.finished if (result := store.load(run.key)) is not None]
    if results:
        return sum(r.seconds for r in results) / len(results), f"mean of {len(results)} finished runs"
    if study.train is not builtin.train:  # nobody else knows how it goes about it
        return None, "unknown before a run is finished"
    runs = _of_a_seed(study)
    taken = [seconds_of(run.job, device=device) for run in in_time(runs, PATIENCE, "measured")]
    what = "arms" if len(runs) <= len(study.arms) else "pairs of arm and grid point"
    source = f"drawn out from a few steps of {len(taken)} of {len(runs)} {what}; too much if the machine is busy"
    return sum(taken) / len(taken), source


def _wall(runs: float, each: float | None, workers: int) -> float | None:
    if each is None:
        return None
    return math.ceil(runs / workers) * each + (WORKER_START if runs else 0)


def _family(study: Study) -> int:
    return len(study.protocol.family.arms or study.arms) - (study.protocol.family.arms is None)


def _bounds(study: Study) -> tuple[float | None, ...]:
    design = design_of(study.protocol)
    if design is None:
        return ()
    bounds = design.bounds(design.alpha / _family(study))
    return tuple(float(b) if math.isfinite(b) else None for b in bounds)


def _forecasts(study: Study, each: float | None, workers: int) -> list[Forecast]:
    design, arms = design_of(study.protocol), _family(study)
    if design is None:
        return []
    share = len(study.runs) / (len(study.arms) * len(study.protocol.seeds))  # grid points, less what they share
    found: list[Forecast] = []
    for row in expected(design, arms):
        runs = share * (arms * row.seeds + (len(study.arms) - arms) * row.baseline)
        found.append(Forecast(row.effect, row.found, row.seeds, runs, _wall(runs, each, workers)))
    return found
