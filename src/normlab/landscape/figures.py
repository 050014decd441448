"""The figures of a landscape as SVG: light where the viewer is light, dark where it is dark."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from normlab.landscape.standalone import standalone
from normlab.page import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from normlab.landscape.result import LandscapeReport, Track

COLOURS = (canvas.BETTER, canvas.WORSE)
LEFT, BOTTOM, TOP = 0.75, 0.5, 0.5  # inches around axes
SMALL = 8.5


def draw(report: LandscapeReport) -> dict[str, str]:
    """Name → SVG, of each part that was measured."""
    tracks = [track for track in (report.given, report.other) if track is not None]
    found: dict[str, tuple[str, Callable[[], Figure]]] = {}
    if any(track.curves for track in tracks):
        found["curves"] = "How the loss changes along its gradient", lambda: _curves(tracks)
    if any(track.ics for track in tracks):
        found["ics"] = "Internal covariate shift by layer", lambda: _ics(tracks)
    if any(any(track.lipschitz.values()) for track in tracks):
        found["lipschitz"] = "Gradient before a norm by gradient after it", lambda: _lipschitz(tracks)
    if any(track.slice for track in tracks):
        found["slice"] = "Loss on a line around the weights", lambda: _slice(tracks)
    if any(track.surface for track in tracks):
        found["surface"] = "Loss on a square around the weights", lambda: _surface(tracks)
    if any(track.sharpness for track in tracks):
        found["sharpness"] = "Rise of the loss in SAM's direction", lambda: _sharpness(tracks)
    if any(track.ablation for track in tracks):
        found["ablation"] = "Accuracy without channels", lambda: _ablation(tracks)
    return {name: standalone(canvas.svg(make, name, title)) for name, (title, make) in found.items()}


def panels(titles: list[str], height: float = 2.6, below: float = 0.0) -> tuple[Figure, list[Axes]]:
    """Axes side by side, each with a title; `below` is room for a legend, in inches."""
    fig = canvas.figure(canvas.WIDTH, height + BOTTOM + TOP + below)
    each, bottom = canvas.WIDTH / len(titles), BOTTOM + below
    found = [canvas.axes(fig, LEFT + k * each, bottom, each - LEFT - 0.15, height) for k in range(len(titles))]
    for ax, title in zip(found, titles, strict=True):
        ax.set_title(title, fontsize=9, fontweight="bold", loc="left")
    return fig, found


def legend(ax: Axes, **options: Any) -> None:
    """The names of what is drawn, without a frame."""
    ax.legend(fontsize=SMALL, frameon=False, **options)


def legend_below(fig: Figure, ax: Axes) -> None:
    """The same in rows of three under the figure, where lines leave no room for it."""
    handles, names = ax.get_legend_handles_labels()
    order = [k for start in range(3) for k in range(start, len(names), 3)] if len(names) > 3 else range(len(names))
    pairs = [(handles[k], names[k]) for k in order]
    fig.legend(*zip(*pairs, strict=True), fontsize=SMALL, frameon=False, loc="lower center", ncols=3)


def _curves(tracks: list[Track]) -> Figure:
    fig, axes = panels(["loss along the gradient", "change of the gradient", "effective β-smoothness", "loss"])
    for track, colour in zip(tracks, COLOURS, strict=False):
        steps = np.array([*track.curves])
        every = [*track.curves.values()]
        bands = ([at.loss_variation for at in every], [at.predictiveness for at in every])
        for ax, pairs in zip(axes[:2], bands, strict=True):
            low, high = np.array(pairs).T if pairs else (np.empty(0), np.empty(0))
            ax.fill_between(steps, low, high, color=colour, alpha=0.25, linewidth=0)
            ax.plot(steps, high, color=colour, linewidth=1.2, label=track.name)
            ax.plot(steps, low, color=colour, linewidth=1.2)
        axes[2].plot(steps, [at.effective_beta for at in every], color=colour, linewidth=1.6)
        axes[3].plot(np.arange(len(track.losses)), track.losses, color=colour, linewidth=1.2)
    for ax in axes:
        ax.set_xlabel("step", fontsize=SMALL)
        canvas.whole_ticks(ax)
        logarithmic(ax)
    legend(axes[0])
    return fig


def _ics(tracks: list[Track]) -> Figure:
    titles = ["cosine of gradients before and after", "length of their difference, of the gradient's"]
    fig, (left, right) = panels(titles, below=0.45)
    for track, colour in zip(tracks, COLOURS, strict=False):
        for step, at in track.ics.items():
            style = _by_age(step, [*track.ics])
            depth = np.arange(1, len(at.layers) + 1)
            shares = np.array(at.shifts) / np.maximum(np.array(at.norms), 1e-300)
            left.plot(depth, at.cosines, color=colour, linewidth=1.4, label=f"{track.name}, step {step}", **style)
            right.plot(depth[1:], shares[1:], color=colour, linewidth=1.4, **style)
    for ax in (left, right):
        ax.set_xlabel("layer with parameters, in the order of calls", fontsize=SMALL)
        canvas.whole_ticks(ax)
    logarithmic(right)
    legend_below(fig, left)
    return fig


def _lipschitz(tracks: list[Track]) -> Figure:
    fig, (ax,) = panels(["length of the gradient before a norm by that after it"], below=0.45)
    for track, colour in zip(tracks, COLOURS, strict=False):
        for step, rows in track.lipschitz.items():
            ratios = [row.ratio for row in rows]
            style = _by_age(step, [*track.lipschitz])
            depth = np.arange(1, len(rows) + 1)
            ax.plot(depth, ratios, color=colour, linewidth=1.4, label=f"{track.name}, step {step}", **style)
    ax.axhline(1, color=canvas.FAINT, linewidth=1)
    ax.set_xlabel("norm", fontsize=SMALL)
    canvas.whole_ticks(ax)
    logarithmic(ax)
    legend_below(fig, ax)
    return fig


def _by_age(step: int, steps: list[int]) -> dict[str, Any]:
    """Early ones dotted, the last one solid."""
    return {"linestyle": (":", "--", "-")[3 - len(steps) + steps.index(step)] if len(steps) <= 3 else "-"}


def _slice(tracks: list[Track]) -> Figure:
    fig, (ax,) = panels(["loss on a line around the last weights"])
    for track, colour in zip(tracks, COLOURS, strict=False):
        if track.slice is not None:
            ax.plot(track.slice.at, track.slice.losses.tolist(), color=colour, linewidth=1.8, label=track.name)
    ax.set_xlabel("distance, in lengths of the weights, filter by filter", fontsize=SMALL)
    logarithmic(ax)
    legend(ax)
    return fig


def _surface(tracks: list[Track]) -> Figure:
    shown = [track for track in tracks if track.surface is not None]
    fig, axes = panels([track.name for track in shown], height=3.8)
    for ax, track, colour in zip(axes, shown, COLOURS, strict=False):
        assert track.surface is not None
        losses = track.surface.losses.numpy()
        finite = losses[np.isfinite(losses) & (losses > 0)]
        levels = np.geomspace(finite.min() * 1.02, finite.max(), 10) if len(finite) and np.ptp(finite) else []
        if len(levels):
            lines = ax.contour(track.surface.at, track.surface.at, losses, levels=levels, colors=colour, linewidths=1)
            ax.clabel(lines, fmt=_short, fontsize=7.5)
        ax.plot([0], [0], "+", color=canvas.INK)
        ax.grid(visible=False)
        ax.set_xlabel("second direction", fontsize=SMALL)
        ax.set_ylabel("first direction", fontsize=SMALL)
    return fig


def _short(value: float) -> str:
    return f"{value:.2g}"


def _sharpness(tracks: list[Track]) -> Figure:
    scopes = {"all": "all weights", "norm": "γ and β alone"}
    shown = [scope for scope in scopes if any(scope in track.sharpness for track in tracks)]
    fig, axes = panels([f"rise of the loss, {scopes[scope]}" for scope in shown])
    for ax, scope in zip(axes, shown, strict=True):
        for track, colour in zip(tracks, COLOURS, strict=False):
            rows = track.sharpness.get(scope, ())
            if rows:
                values = [row.value for row in rows]
                ax.plot(
                    [row.rho for row in rows], values, "o-", color=colour, linewidth=1.6, markersize=4, label=track.name
                )
        ax.set_xlabel("ρ, the length of the step up the gradient", fontsize=SMALL)
        ax.set_xscale("log")
        ax.set_xticks([row.rho for row in next(iter(tracks[0].sharpness.values()), ())])
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter("")
        logarithmic(ax)
    legend(axes[0])
    return fig


def _ablation(tracks: list[Track]) -> Figure:
    number = max(len(track.ablation) for track in tracks)
    shown = max(tracks, key=lambda track: len(track.ablation))
    fig, axes = panels([curve.place for curve in shown.ablation])
    for track, colour in zip(tracks, COLOURS, strict=False):
        for ax, curve in zip(axes, track.ablation, strict=False):
            shares = 100 * np.array(curve.ablated) / curve.ablated[-1]
            rows = curve.accuracy.numpy()
            ax.fill_between(shares, rows.min(0), rows.max(0), color=colour, alpha=0.15, linewidth=0)
            ax.plot(shares, rows.mean(0), color=colour, linewidth=1.8, label=track.name)
    for ax in axes[:number]:
        ax.set_xlabel("channels clamped to 0, %", fontsize=SMALL)
        ax.set_ylim(0, 102)
    axes[0].set_ylabel("accuracy, %", fontsize=SMALL)
    legend(axes[0])
    return fig


def logarithmic(ax: Axes) -> None:
    """Where values are above 0 and span more than a decade; negative ones and NaN keep the axis as it is."""
    drawn = [np.asarray(line.get_ydata(), dtype=float) for line in ax.get_lines()]
    values = np.concatenate([one for one in drawn if len(one) > 2] or [np.empty(0)])
    values = values[np.isfinite(values)]
    if len(values) and values.min() > 0 and values.max() > 10 * values.min():
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter("{x:g}")  # powers of ten would be mathtext, which a browser shows as source
        ax.yaxis.set_minor_formatter("")
