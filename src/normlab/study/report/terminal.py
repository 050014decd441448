"""The report on a terminal or in a pipe: nothing cropped, no number broken, columns dropped where it is narrow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.text import Text

from normlab.page import format as fmt
from normlab.study.report import wording
from normlab.study.report.document import Document
from normlab.study.report.published import published
from normlab.study.report.table import Cell, Column, Row, Style, Table, tables

GAP = "  "
NARROWEST_NAME, NARROWEST_VERDICT = 14, 22  # words may be wrapped to these widths before a column is dropped
COLOURS = {"better": "cyan", "worse": "yellow"}
LEVELS = {"error": "bold red", "warning": "yellow", "note": ""}
# For encodings such as cp1252 or ASCII that lack them.
LEGACY = str.maketrans(
    {"−": "-", "—": "-", "×": "x", "·": "-", "Δ": "D", "ρ": "rho", "α": "alpha", "γ": "gamma", "β": "beta", "±": "+/-"}
    | {"≥": ">=", "≤": "<=", "∞": "inf", "‡": "+", "§": "$"}
)


def show(document: Document, console: Console, style: Style = "default") -> None:
    """Print the tables, their footers, findings and failed runs."""
    page = _Page(console)
    page.line(" — ".join(filter(None, [fmt.printable(document.name), fmt.printable(document.question)])), "bold")
    page.line(wording.progress(document), "dim")
    for panel, table in zip(document.panels, tables(document, style), strict=True):
        page.blank()
        page.table(table)
        for finding in panel.comparisons.findings:
            page.line(f"{finding.level}: {fmt.printable(finding.text)}", LEVELS[finding.level], indent=2)
        if (beside := published(panel)) is not None:
            page.blank()
            page.table(beside)
    if document.failures:
        page.blank()
        page.line(f"{fmt.plural(len(document.failures), 'run')} failed", "bold")
    for failure in document.failures:
        page.line(wording.failure(failure), indent=2)


class _Page:
    """A console and what it can show."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.styled = console.color_system is not None

    def line(self, text: str, style: str = "", indent: int = 0) -> None:
        """A text, wrapped between words, lines after the first indented; nothing where it is empty."""
        for i, part in enumerate(wrap(self._legible(text), self.console.width - indent) if text else []):
            self._print(Text(" " * indent * (i > 0) + part, style))

    def blank(self) -> None:
        """An empty line."""
        self._print(Text())

    def table(self, table: Table) -> None:
        """Heading, columns, rows, footer."""
        marked = [any(row.cells[i].mark for row in table.rows) for i in range(len(table.columns))]
        cells = [
            [
                self._text(cell, row) + " " * (column and not cell.mark)
                for cell, column in zip(row.cells, marked, strict=True)
            ]
            for row in table.rows
        ]
        heads = [replace(column, head=self._legible(column.head)) for column in table.columns]
        shown, widths = layout(heads, cells, self.console.width)
        self.line(table.heading, "bold")
        columns = [(heads[i], width) for i, width in zip(shown, widths, strict=True)]
        self._row([(column.head, "dim") for column, _ in columns], columns)
        for row, texts in zip(table.rows, cells, strict=True):
            self._row([(texts[i], _style(row, row.cells[i])) for i in shown], columns)
            if row.note:
                self.line(f"  {row.note}", "dim", indent=4)
        for line in (*table.footer, *self._legend(table, shown)):
            self.line(line, "dim", indent=2)

    def _text(self, cell: Cell, row: Row) -> str:
        """The cell, with signs for bold and underline where there is neither and no verdict says it."""
        if self.styled or row.verdict:
            return self._legible(cell.full)
        return "*" * cell.strong + "_" * cell.best + self._legible(cell.full)

    def _legend(self, table: Table, shown: list[int]) -> list[str]:
        cells = [cell for row in table.rows for cell in row.cells if not row.verdict]
        signs = not self.styled and any(cell.strong or cell.best for cell in cells)
        dropped = [c.head for i, c in enumerate(table.columns) if i not in shown]
        legend = ["* bold, _ underlined"] if signs else []
        return legend + ([f"too narrow here for: {', '.join(dropped)}"] if dropped else [])

    def _row(self, texts: list[tuple[str, str]], columns: list[tuple[Column, int]]) -> None:
        """One row of texts with their styles, of as many lines as its highest cell."""
        stacks = [
            [text] if column.right else wrap(text, width)
            for (text, _), (column, width) in zip(texts, columns, strict=True)
        ]
        for k in range(max(map(len, stacks))):
            line = Text()
            for stack, (_, style), (column, width) in zip(stacks, texts, columns, strict=True):
                text = stack[k] if k < len(stack) else ""
                pad = " " * (width - cell_len(text))
                line.append(pad * column.right).append(text, style).append(pad * (not column.right) + GAP)
            line.rstrip()
            self._print(line)

    def _legible(self, text: str) -> str:
        """The text in the characters that the console's encoding has."""
        try:
            text.encode(self.console.encoding)
        except UnicodeEncodeError:
            return text.replace(fmt.NBSP, " ").translate(LEGACY).encode("ascii", "replace").decode()
        return text

    def _print(self, text: Text) -> None:
        text.plain = text.plain.replace(fmt.NBSP, " ")  # it has kept lines together; now it would hinder copying
        self.console.print(text, no_wrap=True, overflow="ignore", crop=False, highlight=False)


def _style(row: Row, cell: Cell) -> str:
    colour = COLOURS.get(row.verdict, "") if cell.strong else ""
    return " ".join(filter(None, ["bold" * cell.strong, "underline" * cell.best, colour]))


def layout(columns: Sequence[Column], cells: list[list[str]], width: int) -> tuple[list[int], list[int]]:
    """Which columns fit, and how wide each is."""
    natural = [max(cell_len(text) for text in (c.head, *(row[i] for row in cells))) for i, c in enumerate(columns)]
    least = [n if c.right else min(n, _narrowest(c)) for n, c in zip(natural, columns, strict=True)]
    shown = list(range(len(columns)))
    while sum(least[i] + len(GAP) for i in shown) - len(GAP) > width and len(shown) > 3:
        shown.remove(min(shown, key=lambda i: columns[i].rank))
    widths = [least[i] for i in shown]
    for _ in range(width - sum(widths) - len(GAP) * (len(shown) - 1)):
        tightest = max(range(len(shown)), key=lambda k: natural[shown[k]] / widths[k])
        widths[tightest] += widths[tightest] < natural[shown[tightest]]
    return shown, widths


def _narrowest(column: Column) -> int:
    return NARROWEST_VERDICT if column.head == "verdict" else NARROWEST_NAME


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width` cells, broken at spaces but not at no-break ones, or inside a word too long."""
    lines: list[str] = []
    for word in text.split(" "):
        if lines and cell_len(lines[-1]) + 1 + cell_len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.extend(chop_cells(word, max(width, 1)) if cell_len(word) > width else [word])
    return lines
