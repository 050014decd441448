"""`normlab plan STUDY`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from normlab.cli.options import as_json, study_arguments


@click.command()
@study_arguments
@click.option("--workers", type=click.IntRange(min=1), help="Worker processes to reckon with; default: one per core.")
@as_json
def plan(study: Path, overrides: tuple[str, ...], store: Path | None, workers: int | None, as_json: bool) -> None:
    """Show what STUDY would run, and what it would cost.

    The cost is reckoned from runs that are finished, or else by training one run's first epochs, which are thrown away.
    """
    from normlab.study import Study
    from normlab.study.cost import estimate
    from normlab.study.progress import clock

    loaded = Study.load(study, overrides)
    cost = estimate(loaded, loaded.status(store), loaded.store(store), workers)
    if as_json:
        click.echo(json.dumps(cost.as_dict()))
        return
    arms, seeds, points = len(loaded.arms), len(loaded.protocol.seeds), len({run.point for run in loaded.plan})
    grid = f" × {points} grid points" if points > 1 else ""
    click.echo(
        f"{loaded.protocol.name}: {arms} arms × {seeds} seeds{grid}: {len(loaded.runs)} runs, {cost.waiting} to do"
    )
    for name, definition in loaded.arms.items():
        mark = " (baseline)" if name == loaded.protocol.baseline else ""
        click.echo(f"  {name}{mark}: {definition}")
    if cost.seconds is None or cost.seconds_per_run is None:
        click.echo(f"cost: {cost.source}; {cost.workers} workers")
        return
    click.echo(
        f"about {cost.seconds_per_run:.1f} s a run ({cost.source}), {clock(cost.seconds)} on {cost.workers} workers"
    )
