"""The looks of a stopping rule: t of every recipe on its way, and the bounds that decide."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from normlab.page import canvas
from normlab.page import format as fmt
from normlab.study.report.figures.strips import Strips
from normlab.study.report.stopping import when
from normlab.study.stats.result import Comparisons, Stopped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from normlab.study.stats.stopping.decide import Course

BOTTOM = 0.55  # inches: ticks and what they count
FEW = 12  # looks that are worth a mark each
OUTSIDE = 20  # lengths of the axis at which infinite bounds are drawn
COLOUR = {"better": canvas.BETTER, "worse": canvas.WORSE, "futile": canvas.GREY, "open": canvas.INK}


def looks(c: Comparisons, ident: str) -> str:
    """One strip per recipe: t after each look, and the bounds at the level that the recipe was tested at last."""
    title = f"t against {c.baseline.arm} at every look, and the bounds at which the comparison is decided"
    return canvas.svg(lambda: _draw(c), ident, title)


def _draw(c: Comparisons) -> Figure:
    assert c.design is not None
    rows = [(row, row.stopped) for row in c.rows if row.stopped is not None]
    strips = Strips(len(rows), bottom=BOTTOM)
    top = _top([stopped for _, stopped in rows])
    for ax, (row, stopped) in zip(strips.axes("paired t"), rows, strict=True):
        strips.title(ax, row.arm, when(row) or ("" if row.verdict == "unresolved" else row.verdict))
        _strip(ax, stopped, c.design.looks, top)
    return strips.figure


def _top(stops: list[Stopped]) -> float:
    """End of the axis: every t, but none that would leave the bounds no room."""
    bounds = [b for stop in stops for b in stop.bounds if math.isfinite(b)]
    reached = [abs(t) for stop in stops for t in stop.course.t if math.isfinite(t)]
    low = min(bounds, default=1.0)
    return 1.1 * max(2 * low, min(max(reached, default=0.0), 6 * low))


def _strip(ax: Axes, stopped: Stopped, numbers: tuple[int, ...], top: float) -> None:
    few = len(numbers) <= FEW
    bounds = np.minimum(stopped.bounds, OUTSIDE * top)
    for sign, colour in ((1, canvas.BETTER), (-1, canvas.WORSE)):
        ax.fill_between(numbers, sign * bounds, sign * OUTSIDE * top, color=colour, alpha=0.1, linewidth=0)
        ax.plot(numbers, sign * bounds, ".--" if few else "--", color=colour, linewidth=1)
    ax.axhline(0, color=canvas.FAINT, linewidth=1)
    t = np.clip(stopped.course.t, -top, top)
    ax.plot(numbers[: len(t)], t, "o-" if few else "-", color=canvas.INK, linewidth=1.6, markersize=4)
    if len(t):
        _last(ax, stopped.course, numbers, top)
    room = 0.06 * (numbers[-1] - numbers[0] or 1)
    ax.set_xlim(numbers[0] - room, numbers[-1] + room)
    ax.set_ylim(-top, top)
    if len(numbers) <= FEW // 2:
        ax.set_xticks(numbers)
    else:
        canvas.whole_ticks(ax)
    ax.set_xlabel("paired seeds", fontsize=8.5)


def _last(ax: Axes, course: Course, numbers: tuple[int, ...], top: float) -> None:
    """The look made last, in the colour of what it decided, with its t."""
    t, n = course.t[-1], numbers[course.looks - 1]
    shape = "X" if course.outcome == "futile" else "^" if t > top else "v" if t < -top else "o"
    colour, at = COLOUR[course.outcome], (n, min(max(t, -top), top))
    ax.plot(*at, shape, color=colour, markersize=8, markeredgecolor="white", clip_on=False, zorder=4)
    ax.annotate(
        f"t{fmt.NBSP}= {fmt.number(t, 1)}",
        at,
        xytext=(0, -9 if t > 0 else 9),
        textcoords="offset points",
        ha="right" if course.looks > len(numbers) / 2 else "left",
        va="top" if t > 0 else "bottom",
        fontsize=8,
        color=colour,
        bbox={"facecolor": "white", "alpha": 0.85, "linewidth": 0, "pad": 1},
    )
