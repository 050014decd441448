"""The differences with their intervals, one line per recipe, and the numbers beside them."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any

from normlab.page import canvas
from normlab.page import format as fmt
from normlab.study.report import wording
from normlab.study.stats.result import Comparison, Comparisons, Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINE, BOTTOM, TOP = 0.5, 0.72, 0.42  # inches
NAME = 26  # characters
FAR = 6  # an interval so many times wider than the typical one does not decide about the axis


def forest(c: Comparisons, ident: str) -> str:
    """Difference to the baseline: t interval thick, sign-flip and bootstrap-t intervals thin."""
    title = (
        f"Difference in {wording.metric(c.scores)} to {c.baseline.arm}, with {fmt.percent(c.settings.confidence)} CI"
    )
    return canvas.svg(lambda: _draw(c), ident, title)


def _draw(c: Comparisons) -> Figure:
    names = [canvas.label(row.arm, NAME) for row in c.rows]
    longest = max((len(line) for name in names for line in name.split("\n")), default=0)
    left, right = 0.3 + longest * canvas.CHARACTER, 4.1
    fig = canvas.figure(canvas.WIDTH, LINE * len(c.rows) + BOTTOM + TOP)
    ax = canvas.axes(fig, left, BOTTOM, canvas.WIDTH - left - right, LINE * len(c.rows))
    ends = _ends(c)
    ax.set_xlim(*ends)
    ax.set_ylim(len(c.rows) - 0.5, -0.5)
    ax.grid(visible=False, axis="y")
    ax.grid(visible=True, axis="x", color=canvas.GRID, linewidth=0.8)
    ax.spines["left"].set_visible(False)
    ax.set_yticks(range(len(names)), names, color=canvas.INK)
    ax.tick_params(axis="y", pad=9)
    ax.axvline(0, color=canvas.GREY, linewidth=1.2)
    _equivalence(ax, c)
    for y, row in enumerate(c.rows):
        _line(ax, y, row, ends)
    _numbers(ax, c)
    _directions(ax, c)
    return fig


def _ends(c: Comparisons) -> Interval:
    """Zero, every difference without diverged runs, and every interval that is not far wider than the others."""
    known = [row for row in c.rows if all(map(math.isfinite, (*row.interval, row.delta)))]
    if not known:
        deltas = [row.delta for row in c.rows if math.isfinite(row.delta)]
        low, high = min([0.0, *deltas]), max([0.0, *deltas])
    else:
        typical = statistics.median_low([row.interval[1] - row.interval[0] for row in known])
        near = [row.interval for row in known if row.interval[1] - row.interval[0] <= FAR * typical] or [(0.0, 0.0)]
        deltas = [row.delta for row in known if not row.diverged]
        low, high = min([0.0, *deltas, *(i[0] for i in near)]), max([0.0, *deltas, *(i[1] for i in near)])
    margin = c.settings.equivalence
    if margin is not None and margin < 2 * max(-low, high):
        low, high = min(low, -margin), max(high, margin)
    room = 0.06 * (high - low) or 1.0
    return low - room, high + room


def _equivalence(ax: Axes, c: Comparisons) -> None:
    margin = c.settings.equivalence
    if margin is not None:
        ax.axvspan(-margin, margin, color="#edf0f3", linewidth=0, zorder=0)


def _line(ax: Axes, y: int, row: Comparison, ends: Interval) -> None:
    colour = {"better": canvas.BETTER, "worse": canvas.WORSE}.get(row.verdict, canvas.INK)
    _bar(ax, y, row.interval, ends, colour, 3.2)
    _bar(ax, y + 0.17, row.interval_signflip, ends, canvas.GREY, 1.0)
    _bar(ax, y + 0.28, row.interval_bootstrap_t, ends, canvas.GREY, 1.0, dotted=True)
    if ends[0] < row.delta < ends[1]:
        ax.plot([row.delta], [y], "o", color=colour, markersize=7.5, markeredgecolor="white", markeredgewidth=1)


def _bar(ax: Axes, y: float, i: Interval, ends: Interval, colour: str, width: float, *, dotted: bool = False) -> None:
    """An interval; an arrow where it goes on outside the axis."""
    if not all(map(math.isfinite, i)):
        return
    low, high = (min(max(end, ends[0]), ends[1]) for end in i)
    ax.plot([low, high], [y, y], color=colour, linewidth=width, linestyle=":" if dotted else "-", solid_capstyle="butt")
    for end, edge, marker in ((i[0], ends[0], "<"), (i[1], ends[1], ">")):
        outside = end < edge if marker == "<" else end > edge
        if width > 2 and outside:
            ax.plot([edge], [y], marker, color=colour, markersize=7, clip_on=False)


def _numbers(ax: Axes, c: Comparisons) -> None:
    """n, difference with interval, and verdict, in columns right of the axis."""
    places, across = wording.places(c), ax.get_yaxis_transform()
    inches = ax.get_position().width * canvas.WIDTH
    n_at, delta_at, verdict_at = (1 + x / inches for x in (0.4, 0.6, 2.75))
    head: dict[str, Any] = {"transform": ax.transAxes, "va": "bottom", "fontsize": 8.5, "color": canvas.GREY}
    top = 1 + 0.1 / (LINE * max(len(c.rows), 1))
    ax.text(n_at, top, "n", ha="right", **head)
    ax.text(delta_at, top, f"Δ [{fmt.percent(c.settings.confidence)} CI]", **head)
    ax.text(verdict_at, top, "verdict", **head)
    for y, row in enumerate(c.rows):
        strong = row.verdict in ("better", "worse")
        weight = "bold" if strong else "normal"
        delta = fmt.estimate(row.delta, row.interval, places)
        ax.text(n_at, y, str(len(row.seeds)), transform=across, ha="right", va="center")
        ax.text(delta_at, y, delta, transform=across, va="center", fontweight=weight)
        ax.text(verdict_at, y, _verdict(row, c), transform=across, va="center", fontweight=weight)


def _verdict(row: Comparison, c: Comparisons) -> str:
    if row.verdict == "unresolved":
        return f"unresolved:\n{wording.seeds_missing(row)}"
    if row.verdict == "equivalent" and c.settings.equivalence is not None:
        return f"equivalent\nwithin ±{wording.margin(c.settings.equivalence, wording.places(c))}"
    return row.verdict


def _directions(ax: Axes, c: Comparisons) -> None:
    """What left and right mean, under the axis."""
    left, right = ("worse", "better") if c.settings.better == "higher" else ("better", "worse")
    style: dict[str, Any] = {"transform": ax.transAxes, "va": "top", "fontsize": 8.5, "color": canvas.GREY}
    below = -0.32 / (LINE * max(len(c.rows), 1))
    ax.text(0, below, f"← {left}", ha="left", **style)
    ax.text(1, below, f"{right} →", ha="right", **style)
    ax.text(0.5, below, f"Δ{wording.points(c.scores).replace(fmt.NBSP, ', ')}", ha="center", **style)
