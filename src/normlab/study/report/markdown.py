"""The report as a Markdown page that one commits beside the results."""

from __future__ import annotations

import re
from collections.abc import Iterable

from normlab.page import format as fmt
from normlab.study.report import methods, wording
from normlab.study.report.details import details
from normlab.study.report.document import Document
from normlab.study.report.published import published
from normlab.study.report.table import Cell, Row, Style, Table, tables


def text(document: Document, style: Style = "default") -> str:
    """Question, answers, a table per panel, findings, failed runs, methods, environment, spec."""
    parts = [f"# {escape(document.name)}", escape(document.question), escape(wording.progress(document))]
    for panel, table in zip(document.panels, tables(document, style), strict=True):
        c = panel.comparisons
        parts += [f"## {escape(c.title or wording.metric(c.scores))}", _list(wording.answer(row, c) for row in c.rows)]
        parts += [_table(table), _list(table.footer)]
        parts.append(_list((f"{f.level}: {f.text}" for f in c.findings), "**Findings**\n\n"))
        parts += [_table(beside), _list(beside.footer)] if (beside := published(panel)) is not None else []
        parts += [_table(more := details(c)), _list(more.footer)] if c.rows else []
    parts.append(_list(wording.reading(document.panels[0].comparisons, style), "## How to read this\n\n"))
    parts.append(_list(map(wording.failure, document.failures), "## Failed runs\n\n"))
    parts += ["## Methods", escape(methods.paragraph(document))]
    parts.append(_pairs("## Recipes\n\n", "recipe", "definition", dict(document.arms)))
    parts.append(_pairs("## Environment\n\n", "what", "version", dict(document.environment)))
    parts.append(f"## Study file\n\n{_fenced(document.spec)}" if document.spec else "")
    return "\n\n".join(filter(None, parts)).replace(fmt.NBSP, " ") + "\n"


def escape(text: str) -> str:
    """A text on one line that Markdown shows as it is, in a table cell too."""
    return _markup(fmt.printable(text))


# What Markdown or GitHub would act on: signs anywhere, underscores at the edge of a word, the end of a link's
# text, and what begins a block at the start of a line.
_ACTIVE = re.compile(r"[\\`*|~$]|(?<!\w)_|_(?!\w)|\](?=[(\[:])|^[-+>=#]")


def _markup(text: str) -> str:
    text = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", re.sub(r"&(?=#?\w+;)", "&amp;", text))
    return _ACTIVE.sub(r"\\\g<0>", text)


def _table(table: Table) -> str:
    head = [escape(column.head) for column in table.columns]
    rule = ["---:" if column.right else ":---" for column in table.columns]
    lines = [head, rule, *([_cell(cell) for cell in row.cells] for row in table.rows)]
    rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n\n".join(filter(None, [f"**{escape(table.heading)}**", rows, _notes(table.rows)]))


def _notes(rows: tuple[Row, ...]) -> str:
    return _list(f"{row.cells[0].text}: {row.note}" for row in rows if row.note)


def _cell(cell: Cell) -> str:
    text = escape(cell.text) + cell.mark
    text = f"<u>{text}</u>" if cell.best else text
    return (f"**{text}**" if cell.strong else text) + _markup(cell.detail)


def _list(lines: Iterable[str], heading: str = "") -> str:
    items = "\n".join(f"- {escape(line)}" for line in lines)
    return heading + items if items else ""


def _pairs(heading: str, left: str, right: str, pairs: dict[str, str]) -> str:
    lines = [f"| {left} | {right} |", "|:---|:---|", *(f"| {escape(k)} | {escape(v)} |" for k, v in pairs.items())]
    return heading + "\n".join(lines) if pairs else ""


def _fenced(code: str) -> str:
    """A code block with a fence longer than any run of backticks in it."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", code)), default=0))
    return f"{fence}toml\n{code.rstrip()}\n{fence}"
