"""How the chance of an answer grows with the number of seeds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from normlab.page import canvas
from normlab.page import format as fmt
from normlab.study.stats.power import fewest_seeds, power_curve, seeds_needed
from normlab.study.stats.result import Comparison, Comparisons, Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_SEEDS = 100


def power(c: Comparisons, ident: str) -> str:
    """Power of one comparison against the number of seeds, for effects as large as those observed."""
    return canvas.svg(lambda: _draw(c), ident, "Power by number of seeds for the effects observed")


def _draw(c: Comparisons) -> Figure:
    rows = [row for row in c.rows if math.isfinite(row.d_z) and len(row.seeds) > 1]
    now = max((len(row.seeds) for row in rows), default=2)
    last = _last(rows, c, now)
    fig = canvas.figure(canvas.WIDTH, max(3.4, 0.24 * len(rows) + 0.9))
    height = float(fig.get_size_inches()[1]) - 0.75
    ax = canvas.axes(fig, 0.75, 0.5, canvas.WIDTH - 0.75 - 3.6, height)
    numbers = np.unique(np.linspace(2, last, min(last - 1, 50)).round().astype(int))
    levels: list[float] = []
    for i, row in enumerate(rows):
        curve = _curve(row, numbers, c)
        levels.append(float(curve[-1]))
        ax.plot(numbers, curve, color=canvas.colour(i), linewidth=1.8, linestyle=("-", "--", ":")[i // 8 % 3])
    _frame(ax, c, now, last)
    _names(ax, rows, levels, c, height)
    return fig


def _curve(row: Comparison, numbers: NDArray[np.int_], c: Comparisons) -> Floats:
    """Zero where there are too few seeds for the exact test to reach the level at all."""
    alternative = c.settings.alternative
    curve = power_curve(abs(row.d_z), numbers.tolist(), alpha=level(c), alternative=alternative)
    return np.where(numbers < fewest_seeds(level(c), alternative), 0.0, curve)


def _last(rows: list[Comparison], c: Comparisons, now: int) -> int:
    """The axis shows where the curves cross the wanted power, within reason."""
    needed = [_needed(row, c) for row in rows]
    return min(max([2 * now, *(n for n in needed if n is not None and n <= 4 * now)]), max(MOST_SEEDS, now + 1))


def level(c: Comparisons) -> float:
    """The level of Holm's next step, alpha over the comparisons still open, as for the seeds in the table."""
    open_ = [row for row in c.rows if row.arm in c.family and row.verdict not in ("better", "worse")]
    return c.settings.alpha / max(len(open_), 1)


def _needed(row: Comparison, c: Comparisons) -> int | None:
    """What the table says, where it says it."""
    if row.verdict == "unresolved":
        return row.seeds_needed
    s = c.settings
    return seeds_needed(abs(row.d_z), target=s.power, alpha=level(c), alternative=s.alternative)


def _frame(ax: Axes, c: Comparisons, now: int, last: int) -> None:
    ax.set_xlim(2, last)
    ax.set_ylim(0, 1.02)
    ax.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1], ["0 %", "20 %", "40 %", "60 %", "80 %", "100 %"])
    ax.axhline(c.settings.power, color=canvas.INK, linewidth=0.9, linestyle=(0, (5, 4)))
    ax.axvline(now, color=canvas.FAINT, linewidth=1.2)
    ax.annotate(f" n = {now}", (now, 0), xytext=(2, 4), textcoords="offset points", color=canvas.GREY, fontsize=8.5)
    canvas.whole_ticks(ax)
    ax.set_xlabel("paired seeds", fontsize=8.5)
    ax.set_ylabel("power", fontsize=8.5)


def _names(ax: Axes, rows: list[Comparison], levels: list[float], c: Comparisons, height: float) -> None:
    """A line of text per curve at the right, joined to the curve's end."""
    order = sorted(range(len(rows)), key=lambda i: (levels[i], abs(rows[i].d_z)))
    places = canvas.spread([levels[i] / 1.02 + 1e-6 * k for k, i in enumerate(order)], 0.22 / height, 0.02, 0.98)
    for i, place in zip(order, places, strict=True):
        row, needed = rows[i], _needed(rows[i], c)
        when = f"{fmt.percent(c.settings.power)} at {needed:,} seeds" if needed else "out of reach"
        colour = canvas.colour(i)
        ax.plot(
            [1, 1.025, 1.04],
            [levels[i] / 1.02, place, place],
            color=colour,
            linewidth=1,
            transform=ax.transAxes,
            clip_on=False,
        )
        text = f"{canvas.label(row.arm, 18, 1)} · |d_z| {fmt.number(abs(row.d_z), 1)} · {when}"
        ax.text(1.05, place, text, transform=ax.transAxes, va="center", color=colour, fontsize=8.5)
