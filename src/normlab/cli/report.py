"""`normlab report STUDY`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from normlab.cli.options import as_json, study_arguments, style
from normlab.errors import StoreError

if TYPE_CHECKING:
    from normlab.study import Results
    from normlab.study.report.document import Document
    from normlab.study.report.table import Style


@click.command()
@study_arguments
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Where to write; default: the store.")
@style
@as_json
def report(
    study: Path, overrides: tuple[str, ...], store: str | None, out: Path | None, style: Style, as_json: bool
) -> None:
    """Print the table of STUDY and write report.html, report.md, results.csv, results.json and table.tex.

    Works on what is finished; runs nothing.
    """
    from normlab.study import Study

    loaded = Study.load(study, overrides)
    place = loaded.store(store)
    if not place.files.names(""):
        raise StoreError(f"there is no store at {place}; `normlab run` makes one, --store names another")
    publish(loaded.results(store), out or place.path, style=style, as_json=as_json)


def publish(results: Results, directory: Path, *, style: Style, as_json: bool) -> NoReturn:
    """Write and print the report of a study; the exit code says whether runs failed."""
    from normlab.study.report.files import write_all

    document = results.compare()
    page = write_all(document, directory)
    show(document, style=style, as_json=as_json)
    click.echo(f"\nReport: {page}", err=as_json)
    raise SystemExit(1 if results.failures else 0)


def show(document: Document, *, style: Style, as_json: bool) -> None:
    """Print a report on standard output."""
    from rich.console import Console

    from normlab.study.report import data, terminal

    if as_json:
        click.echo(data.as_json(document))
    else:
        terminal.show(document, Console(), style=style)
