"""Every seed of every recipe, joined to the same seed of the baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from normlab.page import canvas
from normlab.page import format as fmt
from normlab.study.report import wording
from normlab.study.report.figures.strips import Strips
from normlab.study.stats.result import Comparison, Comparisons, Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def pairs(c: Comparisons, ident: str) -> str:
    """One strip per recipe: baseline left, recipe right, a line per seed in the colour of its direction."""
    title = f"{wording.metric(c.scores)} of every seed, {c.baseline.arm} against each recipe"
    return canvas.svg(lambda: _draw(c), ident, title)


def _draw(c: Comparisons) -> Figure:
    rows = [row for row in c.rows if len(row.seeds)]
    strips = Strips(len(rows))
    ends = canvas.limits([values for row in rows for values in (row.control, row.treatment)])
    for ax, row in zip(strips.axes(wording.metric(c.scores)), rows, strict=True):
        good = row.differences if c.settings.better == "higher" else -row.differences
        strips.title(ax, row.arm, f"better on {int((good > 0).sum())} of {len(good)}")
        _strip(ax, row, good, c, ends, strips.wide)
    return strips.figure


def _strip(ax: Axes, row: Comparison, good: Floats, c: Comparisons, ends: tuple[float, float], wide: int) -> None:
    ax.set_xlim(-0.35, 1.35)
    ax.set_ylim(*ends)
    ax.set_xticks([0, 1], [_end(c.baseline.arm, "baseline", wide), _end(row.arm, "recipe", wide)])
    for sign, colour in ((1, canvas.BETTER), (-1, canvas.WORSE), (0, canvas.GREY)):
        _lines(ax, row, np.sign(good) == sign, colour)
    means = [float(row.control.mean()), row.mean]
    ax.plot([0, 1], means, color=canvas.INK, linewidth=2)
    ax.plot([0, 1], means, "D", color=canvas.INK, markersize=6, markeredgecolor="white", markeredgewidth=0.8)
    for x, values in ((0, row.control), (1, row.treatment)):
        _far(ax, x, {f"seed {seed}": v for seed, v in zip(row.seeds, values.tolist(), strict=True)}, ends, c)


def _end(arm: str, role: str, wide: int) -> str:
    """The name under an end of the strip, or its role where there is no room."""
    return fmt.printable(arm) if len(arm) <= max(wide // 2, 8) else role


def _lines(ax: Axes, row: Comparison, which: NDArray[np.bool_], colour: str) -> None:
    """Some of the pairs as one path, with gaps between them."""
    a, b = row.control[which], row.treatment[which]
    x = np.tile([0.0, 1.0, np.nan], len(a))
    y = np.stack([a, b, np.full(len(a), np.nan)], axis=1).ravel()
    ax.plot(x, y, color=colour, linewidth=1, alpha=0.55)
    ax.plot(x, y, "o", color=colour, markersize=3.6, markeredgecolor="white", markeredgewidth=0.5)


def _far(ax: Axes, x: int, values: dict[str, float], ends: tuple[float, float], c: Comparisons) -> None:
    """Arrows at the edge, with names and values, for what lies outside the axis."""
    values = {**values, "mean": float(np.mean([*values.values()]))}
    for edge, direction, side in ((ends[0], "v", "bottom"), (ends[1], "^", "top")):
        outside = {name: v for name, v in values.items() if (v < edge if direction == "v" else v > edge)}
        if not outside:
            continue
        ax.plot([x], [edge], direction, color=canvas.WORSE, markersize=7, clip_on=False, zorder=5)
        few = [f"{fmt.printable(name)}: {fmt.number(v, wording.places(c))}" for name, v in outside.items()]
        ax.annotate(
            "\n".join(few) if len(few) <= 3 else f"{len(few)} outside",
            (x, edge),
            xytext=(-9 if x else 9, 3 if direction == "v" else -3),
            textcoords="offset points",
            ha="right" if x else "left",
            va=side,
            fontsize=8,
            color=canvas.WORSE,
            bbox={"facecolor": "white", "alpha": 0.85, "linewidth": 0, "pad": 1},
        )
