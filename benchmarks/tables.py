"""The tables of README.md, from the newest rows of results.csv."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

HERE = Path(__file__).parent
START, END = "<!-- tables: written by bench_layers.py --append -->", "<!-- end of tables -->"
Row = Mapping[str, str]


def newest(rows: Iterable[Row]) -> dict[tuple[str, str, str, str], Row]:
    """The last row of each (shape, layout, layer, pass)."""
    return {(row["shape"], row["layout"], row["layer"], row["pass"]): row for row in rows}


def table(rows: dict[tuple[str, str, str, str], Row]) -> str:
    """Copies for forward with backward by layer, a column for each shape and layout, with what the graph keeps."""
    columns = list(dict.fromkeys((shape, layout) for shape, layout, _, _ in rows))
    kept = max(columns, key=lambda c: c == ("large", "nchw"))
    lines = ["| layer | " + " | ".join(f"{shape} {layout.upper()}" for shape, layout in columns) + " | saved kB |"]
    lines.append("|---|" + "---:|" * (len(columns) + 1))
    for layer in dict.fromkeys(layer for _, _, layer, _ in rows):
        cells = [_cell(rows.get((*column, layer, "both"))) for column in columns]
        row = rows.get((*kept, layer, "both"))
        saved = f"{int(row['saved_bytes']) / 1000:,.0f}" if row else ""
        lines.append(f"| {layer} | " + " | ".join(cells) + f" | {saved} |")
    return "\n".join(lines)


def _cell(row: Row | None) -> str:
    return "" if row is None else f"{float(row['copies']):.1f}"


def update() -> None:
    """Write the tables between their marks in README.md."""
    with (HERE / "results.csv").open(encoding="utf-8") as file:
        rows = newest(csv.DictReader(file))
    last = next(reversed(rows.values()))
    made = f"{last['processor']}, {last['threads']} threads, torch {last['torch']}, commit {last['commit']}"
    path = HERE / "README.md"
    before, _, rest = path.read_text(encoding="utf-8").partition(START)
    after = rest.partition(END)[2]
    path.write_text(f"{before}{START}\n{made}\n\n{table(rows)}\n{END}{after}", encoding="utf-8")
