"""`normlab compare RESULTS.csv`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from normlab.cli.options import as_json, style
from normlab.errors import DataError, SpecError

if TYPE_CHECKING:
    from normlab.study.report.document import Document
    from normlab.study.stats.result import Comparisons

_OUT = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("results", metavar="RESULTS.csv")
@click.option("--baseline", metavar="ARM", help="The control; default: the arm called base, baseline or control.")
@click.option("--metric", metavar="COLUMN", help="Column of the metric; default: found by name.")
@click.option("--arm-column", metavar="COLUMN", help="Column that names the arms; default: found by name.")
@click.option("--seed-column", metavar="COLUMN", help="Column that names the seeds; default: found by name.")
@click.option("--alpha", type=float, default=0.05, show_default=True, help="Family-wise level.")
@click.option("--two-sided", is_flag=True, help="Test both directions at once; intervals always are two-sided.")
@click.option(
    "--lower-is-better/--higher-is-better",
    default=None,
    help="Which values of the metric are good; default: high ones.",
)
@click.option(
    "--equivalence", type=float, metavar="MARGIN", help="Test for equivalence within ±MARGIN of the baseline."
)
@click.option("--family", metavar="ARM,ARM", help="Compare these arms alone, and correct for their number.")
@style
@click.option("--html", type=_OUT, metavar="FILE", help="Also write a page with plots.")
@click.option("--markdown", type=_OUT, metavar="FILE", help="Also write Markdown.")
@click.option("--latex", type=_OUT, metavar="FILE", help="Also write a LaTeX table.")
@as_json
def compare(
    results: str,
    baseline: str | None,
    metric: str | None,
    arm_column: str | None,
    seed_column: str | None,
    alpha: float,
    two_sided: bool,
    lower_is_better: bool | None,
    equivalence: float | None,
    family: str | None,
    style: Literal["default", "paper"],
    html: Path | None,
    markdown: Path | None,
    latex: Path | None,
    as_json: bool,
) -> None:
    """Compare the arms in RESULTS.csv, paired by seed; `-` reads standard input.

    One row per run with columns for arm, seed and metric; or one row per seed and a column per arm.
    """
    from normlab.cli.report import show
    from normlab.study.stats.compare import compare as compare_scores
    from normlab.study.stats.request import find_baseline
    from normlab.study.stats.result import Settings
    from normlab.study.stats.table import read_csv

    better: Literal["higher", "lower"] = "lower" if lower_is_better else "higher"
    scores = read_csv(results, metric=metric, arm_column=arm_column, seed_column=seed_column, better=better)
    if lower_is_better is None:
        _check_direction(scores.metric)
    settings = Settings(
        baseline=baseline if baseline is not None else find_baseline(scores.arms),
        alpha=alpha,
        alternative="two-sided" if two_sided else "greater",
        better=better,
        equivalence=equivalence,
        family=tuple(arm.strip() for arm in family.split(",")) if family is not None else None,
    )
    document = _document(results, compare_scores(scores, settings))
    show(document, style=style, as_json=as_json)
    _write(document, style, html=html, markdown=markdown, latex=latex)


def _check_direction(metric: str) -> None:
    """High is good unless said otherwise; where the metric's name seems to say so, the user must decide."""
    if re.search(r"loss|error|perplexity|\bppl\b|nll|mse|mae|fid|latency", metric, re.IGNORECASE):
        raise SpecError(f"low values of {metric!r} seem to be good: say --lower-is-better, or --higher-is-better")


def _document(source: str, comparisons: Comparisons) -> Document:
    from normlab.study.report.document import Document, Panel

    return Document("standard input" if source == "-" else Path(source).stem, (Panel(comparisons),))


def _write(
    document: Document,
    style: Literal["default", "paper"],
    *,
    html: Path | None,
    markdown: Path | None,
    latex: Path | None,
) -> None:
    try:
        if html:
            from normlab.study.report import html as page

            page.write(document, html)
        if markdown:
            from normlab.study.report import markdown as text

            markdown.write_text(text.text(document), encoding="utf-8")
        if latex:
            from normlab.study.report import latex as table

            latex.write_text(table.text(document, style=style), encoding="utf-8")
    except OSError as error:
        raise DataError(f"{error.filename} cannot be written: {error.strerror}") from None
