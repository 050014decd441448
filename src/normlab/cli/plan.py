"""`normlab plan STUDY`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from normlab.cli.options import as_json, data_dir, study_arguments
from normlab.cli.output import legible

if TYPE_CHECKING:
    from normlab.study import Study
    from normlab.study.cost import Cost

_MOST_BOUNDS = 8


@click.command()
@study_arguments
@data_dir
@click.option("--workers", type=click.IntRange(min=1), help="Worker processes to reckon with; default: one per core.")
@as_json
def plan(study: Path, overrides: tuple[str, ...], store: str | None, workers: int | None, as_json: bool) -> None:
    """Show what STUDY would run, and what it would cost.

    The cost is reckoned from runs that are finished, or else from a few training steps, which are thrown away;
    they take half a minute or less, so of a large study some arms stand for all. With a stopping rule it says what a
    study is expected to take, by how much the arms gain.
    """
    from normlab.study import Study
    from normlab.study.cost import estimate

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
    else:
        most = ", at most" if cost.forecasts else ""
        each, whole = _duration(cost.seconds_per_run), _duration(cost.seconds)
        click.echo(f"about {each} a run ({cost.source}), {whole} on {cost.workers} workers{most}")
    set_up, networks = cost.networks
    if set_up < networks:
        click.echo(f"only {set_up} of {networks} networks were set up to see if they can be trained; run sets up all")
    for line in _stopping(loaded, cost):
        click.echo(legible(line))


def _duration(seconds: float) -> str:
    from normlab.page import format as fmt

    return fmt.duration(seconds).replace(fmt.NBSP, " ")


def _stopping(study: Study, cost: Cost) -> Iterator[str]:
    """The stopping rule, its bounds, and what is expected of it."""
    from normlab.study.looks import design_of
    from normlab.study.report.stopping import rule

    design = design_of(study.protocol)
    if design is None:
        return
    giving_up = f", given up below a chance of {design.futility:g}" if design.futility else ""
    yield f"stopping: {rule(design)}, Holm at every look{giving_up}".replace("\N{NO-BREAK SPACE}", " ")
    numbers = ["none" if b is None else f"{b:.2f}" for b in cost.bounds]
    shown = ", ".join(numbers if len(numbers) <= _MOST_BOUNDS else [*numbers[:_MOST_BOUNDS], "...", numbers[-1]])
    yield f"bounds of t at Holm's first step: {shown}"
    yield "expected of the whole study, if every arm gains so many SDs of a paired difference:"
    yield f"  {'gain':>6}{'found better':>14}{'seeds an arm':>14}{'runs':>8}{'time':>12}"
    for f in cost.forecasts:
        time = "unknown" if f.seconds is None else _duration(f.seconds)
        yield f"  {f.effect:>6g}{f.found:>14.0%}{f.seeds:>14.1f}{f.runs:>8.0f}{time:>12}"
