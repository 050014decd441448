"""The report as one HTML file: nothing to load, no script, opens offline, prints."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normlab.atomic import write_atomically
from normlab.errors import StoreError
from normlab.page import format as fmt
from normlab.page.template import render
from normlab.study.report import captions, data, figures, latex, methods, wording
from normlab.study.report.details import details
from normlab.study.report.document import Document, Failure, Panel
from normlab.study.report.published import published
from normlab.study.report.table import Style, table

if TYPE_CHECKING:
    from markupsafe import Markup

LONGEST_TRACEBACK = 20_000  # characters
WIDEST_NAME = 22  # characters before names wrap in the table


@dataclass(frozen=True)
class Figure:
    """A drawing and how to read it."""

    svg: Markup
    caption: str


def write(document: Document, path: str | os.PathLike[str], style: Style = "default") -> None:
    """Write the page; a reader sees the old file or the whole new one.

    Raises:
        StoreError: the path cannot be written.
    """
    page = text(document, style)
    try:
        write_atomically(Path(path), page)
    except OSError as error:
        raise StoreError(f"cannot write the report to {path}: {error.strerror or error}") from None


def text(document: Document, style: Style = "default") -> str:
    """The whole page."""
    return render(Path(__file__).with_name("page.html.j2"), _view(document, style))


def _view(document: Document, style: Style) -> dict[str, Any]:
    """What the template prints, all of it escaped there but the drawings."""
    name, question = fmt.printable(document.name), fmt.printable(document.question)
    recipes, environment = list(document.arms.items()), list(document.environment.items())
    facts = ("Recipes", "recipe", "definition", recipes), ("Environment", "what", "version", environment)
    return {
        "name": name,
        "question": question,
        "title": question or name,
        "progress": wording.progress(document),
        "panels": [_panel(panel, f"p{i}", style) for i, panel in enumerate(document.panels, start=1)],
        "reading": wording.reading(document.panels[0].comparisons, style),
        "failures": [(wording.failure(f), _traceback(f)) for f in document.failures],
        "methods": methods.paragraph(document),
        "facts": [fact for fact in facts if fact[-1]],
        "spec": document.spec,
        "downloads": list(_downloads(document, style)),
    }


def _panel(panel: Panel, ident: str, style: Style) -> dict[str, Any]:
    c = panel.comparisons
    return {
        "ident": ident,
        "title": fmt.printable(c.title) or wording.metric(c.scores),
        "answers": [(row.verdict.replace(" ", "-"), wording.answer(row, c)) for row in c.rows],
        "table": table(panel, style),
        "longest": min(max((len(row.arm) + 4 for row in c.rows), default=8), WIDEST_NAME),
        "findings": c.findings,
        "published": published(panel),
        "details": details(c) if c.rows else None,
        "figures": list(_figures(panel, ident)),
    }


def _figures(panel: Panel, ident: str) -> Iterator[Figure]:
    """The figures for which there is something to draw."""
    from markupsafe import Markup

    c = panel.comparisons
    if any(len(row.seeds) for row in c.rows):
        yield Figure(Markup(figures.pairs(c, f"{ident}-pairs")), captions.pairs(c))
        yield Figure(Markup(figures.forest(c, f"{ident}-forest")), captions.forest(c))
    if any(row.stopped is not None and row.stopped.course.looks for row in c.rows):
        yield Figure(Markup(figures.looks(c, f"{ident}-looks")), captions.looks())
    for i, (metric, runs) in enumerate(panel.curves.items()):
        if max((values.shape[1] for values in runs.values()), default=0) < 2:
            continue
        drawing = figures.curves(metric, runs, c.baseline.arm, f"{ident}-curves{i}")
        yield Figure(Markup(drawing), captions.curves(metric, runs))
    if any(len(row.seeds) > 1 for row in c.rows):
        yield Figure(Markup(figures.power(c, f"{ident}-power")), captions.power(c, figures.level(c)))


def _traceback(failure: Failure) -> str:
    """The text behind a failure: as given, or from the file in which it is kept."""
    if "\n" in failure.traceback:
        return failure.traceback[-LONGEST_TRACEBACK:]
    try:
        return Path(failure.traceback).read_text(encoding="utf-8", errors="replace")[-LONGEST_TRACEBACK:]
    except (OSError, ValueError):
        return f"{failure.error}\n\nThe traceback is kept in {failure.traceback or 'no file'}."


def _downloads(document: Document, style: Style) -> Iterator[tuple[str, str, str]]:
    """Label, file name and data link of each other format."""
    stem = re.sub(r"[^\w.-]+", "-", document.name).strip("-.") or "report"
    for label, suffix, mime, content in (
        ("Scores per seed (CSV)", "csv", "text/csv", data.as_csv(document)),
        ("All statistics (JSON)", "json", "application/json", data.as_json(document)),
        ("Table (LaTeX)", "tex", "application/x-tex", latex.text(document, style)),
    ):
        encoded = base64.b64encode(content.encode()).decode("ascii")
        yield label, f"{stem}.{suffix}", f"data:{mime};base64,{encoded}"
