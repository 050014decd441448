"""Which finished runs a study can use: those that have its metric; and whether they were made alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace

from normlab.errors import UnknownName
from normlab.study.executors.events import Event
from normlab.study.result import RunResult
from normlab.study.stats.result import Finding

LACKING = "not among what the training function returned: "


def is_unknown(metric: str, returned: Collection[Collection[str]]) -> bool:
    """Whether runs, several and all of them, lack the metric: it is misspelt, rather than one run at fault."""
    return len(returned) > 1 and not any(metric in names for names in returned)


def check_metric(metric: str, results: Iterable[RunResult]) -> None:
    """Refuse a study whose metric is not among what finished runs have.

    Raises:
        UnknownName: several are finished, and none of them has it.
    """
    returned = [result.metrics for result in results if result.status == "ok"]
    if is_unknown(metric, returned):
        raise UnknownName("metric", metric, {name for names in returned for name in names})


def without_metric(metric: str, results: Mapping[str, RunResult]) -> dict[str, str]:
    """Key → why a finished run counts as failed in this study; none where the metric is one that nobody knows."""
    returned = {key: result.metrics for key, result in results.items() if result.status == "ok"}
    if is_unknown(metric, returned.values()):
        return {}
    return {key: why_failed(metric, names) for key, names in returned.items() if metric not in names}


def why_failed(metric: str, names: Iterable[str]) -> str:
    """What is told of a run that returned these names."""
    return str(UnknownName("metric", metric, names, where=LACKING))


def judged(event: Event, metric: str, returned: list[Collection[str]]) -> Event:
    """The event, a run that ended without the metric having failed.

    Args:
        returned: names that each run so far returned; those of this one are added.

    Raises:
        UnknownName: this is not the first run, and none has had the metric.
    """
    outcome = event.outcome
    if outcome is None or outcome.status != "ok":
        return event
    returned.append(outcome.metrics)
    if is_unknown(metric, returned):
        where = f"{outcome.run.arm}, seed {outcome.run.seed}: {LACKING}"
        raise UnknownName("metric", metric, outcome.metrics, where=where)
    if metric in outcome.metrics:
        return event
    return replace(event, outcome=replace(outcome, status="failed", error=why_failed(metric, outcome.metrics)))


def about_arithmetic(results: Iterable[RunResult]) -> Iterator[Finding]:
    """Runs of one table that were made with other arithmetic, where the study leaves it to the device."""
    made = Counter(_arithmetic(r.environment) for r in results)
    if len(made) > 1:
        yield Finding(
            "warning",
            "arithmetic-changed",
            f"Runs of this table were made by {_shares(made)}: a pair may differ by its arithmetic. Name "
            "train.precision and train.compile in the study, and make the runs on one kind of device.",
        )


def _arithmetic(environment: Mapping[str, str]) -> str:
    kind = "CPU" if environment.get("device", "cpu") == "cpu" else "GPU"
    compiled = " compiled" if "compiled" in environment else ""
    return f"{environment.get('precision', 'fp32')}{compiled} on {kind}"


def about_data(results: Iterable[RunResult]) -> Iterator[Finding]:
    """Runs of one table whose data were not the same; those that do not say are left aside."""
    sums = Counter(r.environment["data_checksum"] for r in results if "data_checksum" in r.environment)
    if len(sums) > 1:
        yield Finding(
            "warning",
            "data-changed",
            f"The data changed between runs of this table, checksums {_shares(sums)}: a pair may differ by its data.",
        )


def _shares(kinds: Counter[str]) -> str:
    """`new (6 runs), old (4 runs)`."""
    return ", ".join(f"{kind} ({n} run{'s' * (n != 1)})" for kind, n in kinds.most_common())
