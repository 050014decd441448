"""The tables for a paper: LaTeX that needs `booktabs` and nothing else."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from normlab.study.report import methods, tex, wording
from normlab.study.report.document import Document, Panel
from normlab.study.report.published import published
from normlab.study.report.table import Cell, Column, Row, Style, Table, tables

HEADS = {"d_z": "$d_z$", "p_holm": r"$p_\mathrm{Holm}$"}
WIDEST_NAME = 22  # characters; longer names wrap
PREAMBLE = r"""\documentclass{article}
\usepackage{booktabs}
\begin{document}
\sloppy
"""


def text(document: Document, style: Style = "default") -> str:
    r"""A `table` environment per panel, and one with the published numbers; for `\usepackage{booktabs}`, ASCII."""
    pairs = zip(document.panels, tables(document, style), strict=True)
    return "\n".join(part for panel, table in pairs for part in _panel(panel, table, style))


def document(document: Document, style: Style = "default") -> str:
    """A whole article around the tables, with the methods paragraph."""
    paragraph = methods.paragraph(document)
    return f"{PREAMBLE}\n{_losses(paragraph)}{tex.escape(paragraph)}\n\n{text(document, style)}\n\\end{{document}}\n"


def _panel(panel: Panel, table: Table, style: Style) -> Iterator[str]:
    yield _float(table, wording.caption(panel.comparisons, style))
    if (beside := published(panel)) is not None:
        yield _float(beside, f"{beside.heading}.")


def _float(table: Table, caption: str) -> str:
    names = [row.cells[0].text for row in table.rows]
    notes = [*_notes(table.rows), *table.footer]
    wrapped = max(map(len, names), default=0) > WIDEST_NAME
    first, gap = (r"p{2.3cm}", "2pt") if wrapped else ("l", "3pt")
    rest = "".join("r" if column.right else "l" for column in table.columns[1:])
    lines = [
        r"\begin{table}",
        rf"\centering\footnotesize\setlength{{\tabcolsep}}{{{gap}}}",
        rf"\caption{{{tex.escape(caption)}}}",
        rf"\begin{{tabular}}{{@{{}}{first}{rest}@{{}}}}",
        r"\toprule",
        " & ".join(map(_head, table.columns)) + r" \\",
        r"\midrule",
        *(_line(row, wrapped=wrapped) for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        *(
            rf"\par\smallskip\parbox{{\linewidth}}{{\scriptsize {tex.escape(note.removesuffix('.'))}.}}"
            for note in notes
        ),
        r"\end{table}",
    ]
    return _losses(" ".join([caption, *names, *notes])) + "\n".join(lines) + "\n"


def _head(column: Column) -> str:
    """The caption names the baseline, and there is no room for it here."""
    return r"$\Delta$" if column.head.startswith("Δ vs") else HEADS.get(column.head, tex.escape(column.head))


def _line(row: Row, *, wrapped: bool) -> str:
    name, *others = map(_cell, row.cells)
    if wrapped:  # specs such as group(num_groups=32) have no spaces to break at
        name = r"\raggedright " + re.sub(r"\\_|[(=/]", r"\g<0>\\allowbreak{}", name)
    return " & ".join([name, *others]) + r" \\"


def _cell(cell: Cell) -> str:
    text = tex.escape(cell.text) + (f"$^{{\\mathrm{{{tex.escape(cell.mark)}}}}}$" if cell.mark else "")
    text = rf"\underline{{{text}}}" if cell.best else text
    # \boldmath for the minus signs and Greek letters, which \textbf leaves as they are.
    return rf"\textbf{{\boldmath {text}}}" if cell.strong else text


def _notes(rows: tuple[Row, ...]) -> list[str]:
    """What a cell has no room for: details of verdicts, and bad runs."""
    details = [f"{row.cells[0].text}: {row.cells[-1].full}" for row in rows if row.cells[-1].detail]
    return details + [f"{row.cells[0].text}: {row.note}" for row in rows if row.note]


def _losses(text: str) -> str:
    """A comment that names the characters printed as `?`; "" where there are none."""
    names = [f"U+{ord(c):04X} {unicodedata.name(c, '')}".rstrip() for c in sorted(tex.lost(text))]
    return f"% printed as ? for want of a LaTeX command: {', '.join(names)}\n" if names else ""
