"""`normlab status STUDY`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from normlab.cli.options import as_json, study_arguments


@click.command()
@study_arguments
@as_json
def status(study: Path, overrides: tuple[str, ...], store: str | None, as_json: bool) -> None:
    """Show how far STUDY has come: finished, begun, failed and waiting runs."""
    from normlab.study import Study

    loaded = Study.load(study, overrides)
    found = loaded.status(store)
    counts = {
        "runs": len(loaded.runs),
        "finished": len(found.finished),
        "begun": len(found.started),
        "failed": len(found.failed),
        "damaged": len(found.damaged),
        "waiting": len(found.waiting),
        "not needed": len(found.needless),
    }
    if as_json:
        click.echo(json.dumps({"store": str(loaded.store(store)), **counts}))
        return
    click.echo(f"{loaded.protocol.name}: {counts['finished']} of {counts['runs']} runs finished", nl=False)
    rest = [f"{n} {state}" for state, n in counts.items() if n and state not in ("runs", "finished")]
    click.echo("".join(f", {text}" for text in rest) + f"  ({loaded.store(store)})")
    for state, runs in (("failed", found.failed), ("damaged", found.damaged)):
        for run in runs:
            click.echo(f"  {state}: {run.arm}, seed {run.seed}: {loaded.store(store).where(run.key)}")
