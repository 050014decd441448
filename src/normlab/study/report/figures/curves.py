"""Training curves over seeds: the median and the middle 80 %."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from normlab.page import canvas
from normlab.page import format as fmt
from normlab.study.stats.result import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_TOGETHER = 4  # treatments in one set of axes; more get one each, beside the baseline
MOST_COLUMNS = 4
FEWEST_TO_ENLARGE = 12  # epochs
SHARES = (10, 50, 90)  # percentiles over seeds


def curves(metric: str, runs: Mapping[str, Floats], baseline: str, ident: str) -> str:
    """Bands of one logged metric by epoch, `runs`: arm → [seeds, epochs]; the baseline in grey."""
    bands = {arm: band for arm, values in runs.items() if (band := _band(values)).size}
    title = f"{metric.replace('_', ' ')} by epoch, median and middle 80 % over seeds"
    together = len(bands) - (baseline in bands) <= MOST_TOGETHER
    draw = _one if together else _many
    return canvas.svg(lambda: draw(metric, bands, baseline), ident, title)


def _band(values: Floats) -> Floats:
    """[3, epochs] percentiles over the seeds that still run; NaN where none does."""
    values = np.where(np.isfinite(values), values, np.nan)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="All-NaN", category=RuntimeWarning)
        return np.nanpercentile(values, SHARES, axis=0) if values.size else np.empty((3, 0))


def _one(metric: str, bands: Mapping[str, Floats], baseline: str) -> Figure:
    """All arms in one set of axes; beside it the last quarter of the epochs, with the arms named at their ends."""
    names = {arm: canvas.label(arm, 24) for arm in bands}
    margin = 0.35 + canvas.BOLD * max((len(line) for n in names.values() for line in n.split("\n")), default=0)
    fig = canvas.figure(canvas.WIDTH, 3.9)
    room, epochs = canvas.WIDTH - 0.75 - margin, max((band.shape[1] for band in bands.values()), default=1)
    ax = canvas.axes(fig, 0.75, 0.5, room if epochs < FEWEST_TO_ENLARGE else 0.56 * room, 3.2)
    _arms(ax, metric, bands, baseline, 1)
    if epochs >= FEWEST_TO_ENLARGE:
        first = epochs - epochs // 4
        ax.axvspan(first, epochs, color="#f3f5f7", zorder=0, linewidth=0)
        ax = canvas.axes(fig, 0.75 + 0.64 * room, 0.5, 0.36 * room, 3.2)
        _arms(ax, "", bands, baseline, first)
    _end_labels(ax, bands, names, _colours(bands, baseline))
    return fig


def _arms(ax: Axes, metric: str, bands: Mapping[str, Floats], baseline: str, first: int) -> None:
    """All arms, the axes beginning at epoch `first`."""
    colours = _colours(bands, baseline)
    for arm, band in bands.items():
        _plot(ax, band, colours[arm], baseline=arm == baseline)
    _frame(ax, metric, list(bands.values()), first)


def _colours(bands: Mapping[str, Floats], baseline: str) -> dict[str, str]:
    treatments = [arm for arm in bands if arm != baseline]
    return {baseline: canvas.GREY} | {arm: canvas.colour(i) for i, arm in enumerate(treatments)}


def _end_labels(ax: Axes, bands: Mapping[str, Floats], names: Mapping[str, str], colours: Mapping[str, str]) -> None:
    """Names at the right edge, pushed apart where the curves end together."""
    last = {arm: np.flatnonzero(np.isfinite(band[1])) for arm, band in bands.items()}
    arms = [arm for arm in bands if last[arm].size]
    points = [(float(last[arm][-1]) + 1, float(bands[arm][1, last[arm][-1]])) for arm in arms]
    heights = [float(ax.transAxes.inverted().transform(ax.transData.transform(point))[1]) for point in points]
    gap = 0.055 * max((names[arm].count("\n") + 1 for arm in arms), default=1)
    for arm, (x, y), place in zip(arms, points, canvas.spread(heights, gap, 0.02, 0.98), strict=True):
        ax.annotate(
            names[arm],
            (x, y),
            xytext=(1.025, place),
            textcoords=ax.transAxes,
            va="center",
            color=colours[arm],
            fontweight="bold",
            arrowprops={
                "arrowstyle": "-",
                "color": colours[arm],
                "linewidth": 0.7,
                "relpos": (0, 0.5),
                "shrinkA": 1,
                "shrinkB": 1,
            },
        )


def _many(metric: str, bands: Mapping[str, Floats], baseline: str) -> Figure:
    """One small set of axes per treatment, the baseline in each."""
    arms = [arm for arm in bands if arm != baseline]
    lines = -(-len(arms) // MOST_COLUMNS)
    width, height, block = (canvas.WIDTH - 0.75) / MOST_COLUMNS, 1.35, 2.1
    fig = canvas.figure(canvas.WIDTH, block * lines + 0.1)
    for i, arm in enumerate(arms):
        row, column = divmod(i, MOST_COLUMNS)
        ax = canvas.axes(fig, 0.7 + width * column, block * (lines - 1 - row) + 0.45, width * 0.88, height)
        if baseline in bands:
            _plot(ax, bands[baseline], canvas.GREY, baseline=True)
        _plot(ax, bands[arm], canvas.BETTER)
        _frame(ax, metric if column == 0 else "", list(bands.values()))
        ax.tick_params(labelleft=column == 0)
        ax.set_title(canvas.label(arm, 25), fontsize=8.5, fontweight="bold", loc="left", color=canvas.BETTER)
    return fig


def _plot(ax: Axes, band: Floats, colour: str, *, baseline: bool = False) -> None:
    epochs = np.arange(1, band.shape[1] + 1)
    low, middle, high = band
    ax.fill_between(epochs, low, high, color=colour, alpha=0.13, linewidth=0)
    dot = "o" if band.shape[1] == 1 else ""
    ax.plot(epochs, middle, color=colour, linewidth=1.8, marker=dot, zorder=2 if baseline else 3)


def _frame(ax: Axes, metric: str, bands: list[Floats], first: int = 1) -> None:
    """Axes from epoch `first` that show every median; bands may leave them, logarithmic where medians span decades."""
    last = max(max((band.shape[1] for band in bands), default=1), first + 1)
    bands = [band[:, first - 1 :] for band in bands]
    medians = np.concatenate([band[1][np.isfinite(band[1])] for band in bands] or [np.empty(0)])
    if medians.size:
        wide = bool((medians > 0).all() and medians.max() > 30 * np.median(medians))
        if wide:
            ax.set_yscale("log")
            ax.yaxis.set_major_formatter("{x:g}")  # powers of ten would be mathtext, which a browser shows as source
            ax.yaxis.set_minor_formatter("")
        ax.set_ylim(*_ends(medians, np.concatenate(bands, axis=None), wide=wide))
    ax.set_xlim(first, last)
    canvas.whole_ticks(ax)
    ax.set_xlabel("epoch", fontsize=8.5)
    ax.set_ylabel(fmt.printable(metric.replace("_", " ")), fontsize=8.5)


def _ends(medians: Floats, bands: Floats, *, wide: bool) -> tuple[float, float]:
    """The bands, but at most half the range of the medians beyond these: a few diverged seeds squash nothing."""
    to, back = (np.log, np.exp) if wide else (np.asarray, np.asarray)
    inner, outer = to(medians), to(bands[np.isfinite(bands) & ((bands > 0) | (not wide))])
    low, high = float(inner.min()), float(inner.max())
    reach = 0.5 * (high - low)
    low, high = max(float(outer.min()), low - reach), min(float(outer.max()), high + reach)
    room = 0.03 * (high - low) or max(abs(low) * 0.01, 1e-6)
    return float(back(low - room)), float(back(high + room))
