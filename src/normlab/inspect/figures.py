"""Profiles by depth, one small figure for each quantity."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from normlab.inspect.measure import Row
from normlab.inspect.ranges import RANGES
from normlab.page import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 4.9, 2.3
_MARKERS = {"high": "^", "low": "v", "nan": "X"}


@dataclass(frozen=True)
class Profile:
    """A quantity by depth.

    Args:
        title: above the figure; caption: how to read it.
        value: of a row. spread: half the height of the band around it. start: where training began.
    """

    quantity: str
    title: str
    caption: str
    value: Callable[[Row], float | None]
    spread: Callable[[Row], float | None] | None = None
    start: Callable[[Row], float | None] | None = None


def _of_affine(role: str, name: str) -> Callable[[Row], float | None]:
    return lambda row: getattr(getattr(row, role), name, None)


def _start(role: str) -> Callable[[Row], float | None]:
    def start(row: Row) -> float | None:
        value = getattr(row, role)
        return None if value is None else value.mean - value.drift

    return start


def _affine(role: str, title: str) -> Profile:
    caption = "Mean over the channels, their standard deviation shaded; dotted where it started."
    return Profile(role, title, caption, _of_affine(role, "mean"), _of_affine(role, "spread"), _start(role))


def _quantity(name: str, title: str, caption: str) -> Profile:
    return Profile(name, title, caption, lambda row: row.by_depth(name))


PROFILES = (
    _affine("weight", "γ"),
    _affine("bias", "β"),
    _quantity("sigma", "σ", "What the layer divides by, mean over what is normalized separately."),
    _quantity("gradient_factor", "gradient factor |γ|/σ", "By it gradients are multiplied on their way back."),
    _quantity("large_values", "share of |x̂| > 6", "Of a Gaussian 2e-9."),
    _quantity("activation_variance", "activation variance", "Of each channel, behind the activation; mean."),
    _quantity("mean_cosine", "mean pairwise cosine", "Near 1 the layer does not tell the examples apart."),
    _quantity("stable_rank", "stable rank", "From 1, all examples alike, to their number."),
    _quantity("gradient_norm", "gradient norm", "Of the loss, by what is normalized; over the whole batch."),
)


def profiles(rows: Sequence[Row]) -> Iterator[tuple[Profile, str]]:
    """Those of which there are values, with their drawings as SVG."""
    called = [row for row in rows if row.calls]
    for profile in PROFILES:
        if any(profile.value(row) is not None for row in called):
            ident = f"profile-{profile.quantity.replace('_', '-')}"
            yield (
                profile,
                canvas.svg(lambda profile=profile: _draw(profile, called), ident, f"{profile.title} by depth"),
            )


def _draw(profile: Profile, rows: Sequence[Row]) -> Figure:
    fig = canvas.figure(WIDTH, HEIGHT)
    ax = canvas.axes(fig, 0.68, 0.42, WIDTH - 0.8, HEIGHT - 0.55)
    depth = np.arange(1, len(rows) + 1)
    values = _floats(profile.value, rows)
    _scale(ax, values)
    if profile.start is not None:
        ax.plot(depth, _floats(profile.start, rows), color=canvas.GREY, linewidth=1.0, linestyle=(0, (1, 2)))
    if profile.spread is not None:
        spread = _floats(profile.spread, rows)
        ax.fill_between(depth, values - spread, values + spread, color=canvas.BETTER, alpha=0.16, linewidth=0)
    shown = np.isfinite(values) & ((values > 0) | (ax.get_yscale() != "log"))
    ax.plot(depth[shown], values[shown], color=canvas.BETTER, linewidth=1.3, marker="o", markersize=2.6)
    _limits(ax, profile.quantity, values[shown])
    _marks(ax, profile.quantity, rows, values)
    ax.set_xlim(0.5, len(rows) + 0.5)
    ax.set_xlabel("layer, in the order of calls", fontsize=8.5)
    canvas.whole_ticks(ax)
    return fig


def _floats(value: Callable[[Row], float | None], rows: Sequence[Row]) -> canvas.Floats:
    found = [value(row) for row in rows]
    return np.array([math.nan if number is None else number for number in found])


def _scale(ax: Axes, values: canvas.Floats) -> None:
    """By logarithms where the values span more than a power of ten and a half."""
    finite = values[np.isfinite(values)]
    positive = finite[finite > 0]
    ax.yaxis.set_major_formatter("{x:g}")  # no power of ten above the axis, where the next figure is
    if finite.size and finite.min() == finite.max():
        ax.set_ylim(finite[0] - 0.5, finite[0] + 0.5)
    if positive.size and finite.min() >= 0 and positive.max() > 30 * positive.min():
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter("{x:g}")  # powers of ten would be mathtext, which a browser shows as source
        ax.yaxis.set_minor_formatter("")


def _limits(ax: Axes, quantity: str, shown: canvas.Floats) -> None:
    """A dashed line at the end of the healthy range, where a value comes near to it."""
    range = next((range for range in RANGES if range.quantity == quantity and not range.to), None)
    if range is None or not math.isfinite(range.high) or not shown.size or shown.max() < 0.6 * range.high:
        return
    ax.axhline(range.high, color=canvas.WORSE, linewidth=1.0, linestyle=(0, (5, 3)))


def _marks(ax: Axes, quantity: str, rows: Sequence[Row], values: canvas.Floats) -> None:
    """Triangles that point out of the healthy range; crosses at the top where a value is not finite."""
    for place, row in enumerate(rows):
        mark = row.marks.get(quantity)
        value = values[place]
        if mark is None or (ax.get_yscale() == "log" and value <= 0):
            continue
        if math.isfinite(value):
            ax.plot(place + 1, value, color=canvas.WORSE, marker=_MARKERS[mark], markersize=6, zorder=4)
        else:
            edge = ax.get_xaxis_transform()
            ax.plot(place + 1, 0.96, color=canvas.WORSE, marker="X", markersize=6, transform=edge, clip_on=False)
