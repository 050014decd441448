"""`normlab run STUDY`."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from normlab.cli import INTERRUPTED
from normlab.cli.options import as_json, data_dir, study_arguments, style

if TYPE_CHECKING:
    from normlab.study import Study
    from normlab.study.report.table import Style


@click.command()
@study_arguments
@data_dir
@click.option("--on", metavar="WHERE", help="local (default), ray, or a Ray cluster: auto, host:port, ray://host:port.")
@click.option("--workers", type=click.IntRange(min=0), help="Runs at once; default: as many as there is room for.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of each run; default: cpus of [resources].")
@click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="DEVICE",
    help="cpu, cuda, cuda:1, mps; auto: a GPU where [resources] has gpus and there is one, else the CPU.",
)
@click.option(
    "--checkpoint-every",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between checkpoints of a run.",
)
@click.option("--quiet", is_flag=True, help="No progress display.")
@style
@as_json
def run(
    study: Path,
    overrides: tuple[str, ...],
    store: str | None,
    on: str | None,
    workers: int | None,
    threads: int | None,
    device: str,
    checkpoint_every: float,
    quiet: bool,
    style: Style,
    as_json: bool,
) -> None:
    """Run STUDY (a TOML file): train every arm at every seed, print the table, write the report.

    Runs that are finished are not repeated; interrupt it, and the same command goes on where it was.
    Exit code: 0, or 1 when runs failed, 2 on bad input, 130 when interrupted.
    """
    from normlab.cli.report import publish
    from normlab.study import Study
    from normlab.study.distributed import launched

    if not launched().is_first:  # torchrun's other processes do what the first one says, and print nothing
        from normlab.study.processes.torchrun import follow

        follow()
        return
    loaded = Study.load(study, overrides)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's stop is an interrupt like Ctrl-C
    try:
        results = loaded.run(
            store=store,
            on=on,
            workers=workers,
            threads=threads,
            device=device,
            checkpoint_seconds=checkpoint_every,
            progress=not quiet,
        )
    except KeyboardInterrupt:
        _say_what_is_saved(loaded, store)
        raise SystemExit(INTERRUPTED) from None
    publish(results, loaded.store(store).path, style=style, as_json=as_json)


def _say_what_is_saved(study: Study, store: str | None) -> None:
    place, status = study.store(store), study.status(store)
    resumable = sum(place.has_checkpoint(run.key) for run in study.runs)
    click.echo(
        f"\nInterrupted. {len(status.finished)} of {len(study.runs)} runs are finished and saved in {place}, "
        f"{resumable} more up to their last checkpoint.\nThe same command again continues from there.",
        err=True,
    )
