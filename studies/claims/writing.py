"""What the reports of the claims share: paired statistics, one table form, the header, files. No training in here."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from normlab import Results
from normlab.atomic import write_atomically
from normlab.landscape.standalone import standalone
from normlab.page import canvas
from normlab.page import format as fmt
from normlab.study.stats import holm, signflip_test, t_interval

RESULTS = Path(__file__).parents[2] / "results" / "claims"
ALPHA = 0.05
REPRODUCES, OPPOSITE, UNRESOLVED = "reproduces", "the opposite", "unresolved"


@dataclass(frozen=True)
class Row:
    """One question: paired differences [seeds], of which the claim says that they are above 0.

    Args:
        what: is compared. values: in `unit`; with log=True logarithms to base 10, shown as factors.
    """

    what: str
    values: Sequence[float]
    unit: str = ""
    log: bool = False


def table(rows: Sequence[Row]) -> str:
    """A Markdown table: n, estimate with its interval, exact sign-flip p, two-sided, Holm over the rows, verdict."""
    lines = [
        "| what | n | estimate | 95 % CI | p | p_holm | verdict |",
        "| :--- | ---: | ---: | ---: | ---: | ---: | :--- |",
    ]
    for row, values, p, adjusted in tested(rows):
        if len(values) < 2:
            lines.append(f"| {row.what} | {len(values)} | — | — | — | — | too few |")
            continue
        mean, (low, high) = float(values.mean()), t_interval(values)
        shown = [_shown(value, row) for value in (mean, low, high)]
        said = f"**{found}**" if (found := verdict(mean, adjusted)) != UNRESOLVED else found
        p_text, holm_text = fmt.p_value(p), fmt.p_value(adjusted)
        lines.append(
            f"| {row.what} | {len(values)} | {shown[0]} | {shown[1]} to {shown[2]} | {p_text} | {holm_text} | {said} |"
        )
    return "\n".join(lines)


def tested(rows: Sequence[Row]) -> list[tuple[Row, np.ndarray, float, float]]:
    """Each row with its finite values, p and Holm's p."""
    known = [np.array([v for v in row.values if math.isfinite(v)]) for row in rows]
    ps = [signflip_test(values, "two-sided").p if len(values) > 1 else 1.0 for values in known]
    return [(row, values, p, float(q)) for row, values, p, q in zip(rows, known, ps, holm(ps), strict=True)]


def verdict(mean: float, p: float) -> str:
    """What a row says about the claim."""
    if not p <= ALPHA:
        return UNRESOLVED
    return REPRODUCES if mean > 0 else OPPOSITE


def verdicts(rows: Sequence[Row]) -> list[str]:
    """Of each row, p corrected over these rows."""
    return [verdict(float(values.mean()), q) if len(values) > 1 else UNRESOLVED for _, values, _, q in tested(rows)]


def headline(*families: Sequence[Row]) -> str:
    """All of a claim in a few words, "in part" where most rows reproduce; p is corrected within each family."""
    said = [word for rows in families for word in verdicts(rows)]
    if set(said) == {REPRODUCES}:
        return "reproduces"
    if 2 * said.count(OPPOSITE) > len(said):
        return "does not reproduce here; mostly the opposite"
    return "reproduces in part" if 2 * said.count(REPRODUCES) > len(said) else "does not reproduce here"


def tally(rows: Sequence[Row]) -> str:
    """`reproduces in 9 of 12, the opposite in 1, unresolved in 2`."""
    said = verdicts(rows)
    parts = [f"{word} in {said.count(word)}" for word in (REPRODUCES, OPPOSITE, UNRESOLVED) if word in said]
    return ", ".join([f"{parts[0]} of {len(said)}", *parts[1:]])


def holds(*families: Sequence[Row]) -> str:
    """Which rows reproduce, in a sentence."""
    found = [
        row.what for rows in families for row, said in zip(rows, verdicts(rows), strict=True) if said == REPRODUCES
    ]
    return f"What reproduces: {'; '.join(dict.fromkeys(found)) or 'nothing'}."


def _shown(value: float, row: Row) -> str:
    if row.log:
        return f"×{10**value:.3g}"
    return f"{fmt.number(value, 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 3)}{row.unit}"


def finished(results: Results, arm: str) -> dict[int, Any]:
    """Seed → result of the runs of an arm that trained to the end."""
    runs = [run for run in results.runs if run.arm == arm and run.key in results.finished]
    return {run.seed: results.finished[run.key] for run in runs if results.finished[run.key].status == "ok"}


def diverged(results: Results) -> str:
    """Which runs diverged, in a sentence."""
    found: dict[str, int] = {}
    for run in results.runs:
        result = results.finished.get(run.key)
        if result is not None and result.status == "diverged":
            found[run.arm] = found.get(run.arm, 0) + 1
    if not found:
        return "No run diverged."
    return (
        "Diverged runs: "
        + ", ".join(f"{arm}: {count}" for arm, count in found.items())
        + "; pairs with one are left out."
    )


def header(results: Results, script: str) -> str:
    """Cost, hardware, versions, commit, and the command that makes all of it again."""
    document = results.compare()
    e = document.environment
    versions = ", ".join(f"{name} {e[name]}" for name in ("normlab", "python", "torch", "numpy") if name in e)
    return (
        f"Made by `python studies/claims/{script}` (finished runs are not made again): {document.runs[0]} runs, "
        f"{fmt.duration(document.seconds or 0)} of computing, one thread each. {e.get('processor', '')}; {versions}; "
        f"commit {e.get('commit', 'unknown')} (+: with changes)."
    )


def write(name: str, report: str, rows: Iterable[Mapping[str, Any]], figures: Mapping[str, str]) -> Path:
    """results/claims/<name>/: report.md, results.csv with the raw numbers, and the figures."""
    directory, rows = RESULTS / name, list(rows)
    directory.mkdir(parents=True, exist_ok=True)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: f"{v:.6g}" if isinstance(v, float) else v for key, v in row.items()} for row in rows)
    write_atomically(directory / "results.csv", out.getvalue())
    write_atomically(directory / "report.md", report.strip() + "\n")
    for figure, text in figures.items():
        write_atomically(directory / f"{figure}.svg", text)
    return directory


def svg(draw: Any, ident: str, title: str) -> str:
    """A figure as a file of its own, in the colours that its viewer prefers."""
    return standalone(canvas.svg(draw, ident, title))


def band(ax: Any, x: Sequence[float], runs: Sequence[Sequence[float]], colour: str, label: str) -> None:
    """Median over seeds, and the middle 80 % of them as a band."""
    low, middle, high = np.nanpercentile(np.array(runs, dtype=float), (10, 50, 90), axis=0)
    ax.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    ax.plot(x, middle, color=colour, linewidth=1.8, label=label)
