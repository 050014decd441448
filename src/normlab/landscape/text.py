"""A landscape in words, line by line."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np

from normlab.landscape.result import ALIKE, QUANTITIES
from normlab.page import format as fmt

if TYPE_CHECKING:
    from normlab.landscape.result import Factor, LandscapeReport, Track
    from normlab.probes import LossSlice

Style = Literal["", "bold", "error", "warning", "dim"]
Line = tuple[str, Style]
Spell = Callable[[str], str]
TABLE = 96  # columns that the table of curves takes


def lines(report: LandscapeReport, width: int, spell: Spell = str) -> Iterator[Line]:
    """The report, with the style of each line.

    Args:
        spell: gives a text in the characters that there are, which may be longer.
    """
    for text, style in _lines(report, width, spell):
        spelled = fmt.NBSP.join(spell(part) for part in text.split(fmt.NBSP))
        indent = " " * (4 if text.startswith(" ") else 0)
        wrapped = textwrap.wrap(
            spelled, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
        for line in wrapped or [""]:
            yield line.replace(fmt.NBSP, " "), style


def _lines(report: LandscapeReport, width: int, spell: Spell) -> Iterator[Line]:
    tracks = [track for track in (report.given, report.other) if track is not None]
    yield f"{report.subject}; {report.data}", "bold"
    yield verdict(report), "bold"
    for track in tracks:
        if track.diverged is not None:
            words = f"{track.name}: the loss is no number at step {track.diverged}; nothing is known from there on"
            yield words, "error"
    curves = _curves(report, width, spell)
    for paragraph in (_training(report), curves, _ics(tracks), _lipschitz(tracks), _around(tracks), _ablation(tracks)):
        yield from _spaced(paragraph)
    for note in report.notes:
        yield note, "dim"
    yield f"{fmt.duration(report.seconds)}; all figures are medians where they are of several", "dim"


def verdict(report: LandscapeReport) -> str:
    """Which network has the smoother loss, and by what factor."""
    if report.other is None:
        return "One network, compared with nothing."
    by_step, by_loss = report.factors(), report.factors_at_equal_loss()
    if not by_step:
        return "No curves were measured of both networks: which is smoother is not known."
    if not _known(by_step):
        return "No curve has numbers that can be compared: which network is smoother is not known."
    given, other = report.given.name, report.other.name
    found = f"In this run, step by step {given} {_judged(by_step, other)}."
    if report.settings.steps == 0:
        return found
    if not by_loss:
        return f"{found} The two never have the same loss."
    return f"{found} At equal loss {f'it {_judged(by_loss, other)}' if _known(by_loss) else 'nothing is known'}."


def _known(factors: dict[str, Factor]) -> list[Factor]:
    return [factor for factor in factors.values() if not math.isnan(factor.median)]


def _judged(factors: dict[str, Factor], other: str) -> str:
    signs = {_sign(factor.median) for factor in _known(factors)}
    if signs <= {1, 0} and 1 in signs:
        start = f"is smoother than {other}"
    elif signs <= {-1, 0} and -1 in signs:
        start = f"is less smooth than {other}"
    elif signs == {0}:
        start = f"is as smooth as {other}"
    else:
        start = f"is smoother than {other} in some and less smooth in others"
    return f"{start}: {fmt.enumeration([_sentence(name, factor) for name, factor in factors.items()])}"


def _sentence(name: str, factor: Factor) -> str:
    return f"{name} {times(factor.median)} (less at {factor.less} of {factor.steps} points)"


def times(median: float) -> str:
    """`12 times less`, `1.4 times more`, `alike`, of what is so many times larger in the other network."""
    if math.isnan(median):
        return "unknown"
    if _sign(median) == 0:
        return "alike"
    if median > 1:
        return f"{number(median)} times less"
    return f"{number(1 / median) if median else 'without bound'} times more"


def _sign(median: float) -> int:
    return 0 if 1 / ALIKE < median < ALIKE else 1 if median > 1 else -1


def number(value: float) -> str:
    """Two or three significant digits."""
    if not math.isfinite(value):
        return "∞" if value > 0 else "—"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2g}" if abs(value) < 10 else f"{value:.3g}"


def _training(report: LandscapeReport) -> Iterator[Line]:
    s = report.settings
    if not s.steps:
        return
    yield f"Training: {fmt.plural(s.steps, 'step')} of gradient descent, learning rate {s.lr:g}", "bold"
    for track in (report.given, report.other):
        if track is not None and track.losses:
            right = "" if track.accuracy is None else f"; {track.accuracy:.1f} % of these examples right at the end"
            first, last = number(track.losses[0]), number(track.losses[-1])
            words = f"{first} at first" if track.diverged is not None else f"from {first} to {last}{right}"
            yield f"  {track.name:<14} loss {words}", ""


def _curves(report: LandscapeReport, width: int, spell: Spell) -> Iterator[Line]:
    s, factors, at_loss = report.settings, report.factors(), report.factors_at_equal_loss()
    if not report.given.curves:
        return
    sizes = f"{min(s.step_sizes):g} to {max(s.step_sizes):g}"
    points = fmt.plural(len(report.given.curves), "point")
    yield f"Along the gradient, steps of {sizes}, at {points} of training", "bold"
    if report.other is None or not factors:
        for name, value in QUANTITIES.items():
            yield f"  {spell(name):<26}{number(median([value(at) for at in report.given.curves.values()])):>12}", ""
        return
    if width < TABLE:
        yield f"  {report.given.name} and {report.other.name}", "dim"
        for name, factor in factors.items():
            beside = f", {times(at_loss[name].median)} at equal loss" if name in at_loss else ""
            values = f"{number(factor.given)} and {number(factor.other)}"
            yield f"  {name}: {values}, {times(factor.median)} step by step{beside}", ""
        return
    names = f"{report.given.name[:12]:>12}{report.other.name[:12]:>14}"
    yield f"  {'':<26}{names}  {'step by step':<24}{'at equal loss' if at_loss else ''}".rstrip(), "dim"
    for name, factor in factors.items():
        values = f"{spell(number(factor.given)):>12}{spell(number(factor.other)):>14}"
        beside = times(at_loss[name].median) if name in at_loss else ""
        yield f"  {spell(name):<26}{values}  {times(factor.median):<24}{beside}".rstrip(), ""


def _ics(tracks: list[Track]) -> Iterator[Line]:
    shown = [track for track in tracks if track.ics]
    if shown:
        yield "Internal covariate shift: how far gradients turn because the layers before have learned", "bold"
    for track in shown:
        cosines = {step: median(at.cosines[1:]) for step, at in track.ics.items()}
        words = ", ".join(f"{number(value)} at step {step}" for step, value in cosines.items())
        yield f"  {track.name:<14} cosine of the angle, median over layers: {words}", ""


def _lipschitz(tracks: list[Track]) -> Iterator[Line]:
    shown = [track for track in tracks if any(track.lipschitz.values())]
    if shown:
        yield "Length of the gradient before a norm by that after it (below 1: the norm makes the loss flatter)", "bold"
    for track in shown:
        ratios = {step: [one.ratio for one in rows] for step, rows in track.lipschitz.items()}
        words = ", ".join(
            f"{number(median(values))} ({number(min(values))} to {number(max(values))}) at step {step}"
            for step, values in ratios.items()
            if values
        )
        yield f"  {track.name:<14} median over layers: {words}", ""


def _around(tracks: list[Track]) -> Iterator[Line]:
    if any(track.slice or track.surface or track.sharpness for track in tracks):
        yield "Around the last weights", "bold"
    for track in tracks:
        start = f"  {track.name:<14} "
        if track.slice is not None:
            here, half, whole = (number(value) for value in _at_shares(track.slice))
            yield f"{start}slice: loss {here} here, {half} at half the length of the weights, {whole} at all of it", ""
        if track.surface is not None:
            low = track.surface.losses[len(track.surface.at) // 2, len(track.surface.at) // 2]
            share = float((track.surface.losses <= 2 * low).double().mean())
            yield f"{start}surface: the loss is at most doubled on {fmt.chance(share)} of the square", ""
        for scope, rows in track.sharpness.items():
            values = ", ".join(f"{number(row.value)} at ρ {row.rho:g}" for row in rows[1::2])
            what = "all weights" if scope == "all" else "γ and β alone"
            yield f"{start}sharpness, {what}: loss rises by {values}", ""


def _at_shares(line: LossSlice) -> tuple[float, float, float]:
    """The loss in the middle of a slice, and the means half way to its ends and at them."""
    middle = len(line.at) // 2
    found = [float(line.losses[[middle - k, middle + k]].mean()) for k in (0, middle // 2, middle)]
    return found[0], found[1], found[2]


def _ablation(tracks: list[Track]) -> Iterator[Line]:
    if any(track.ablation for track in tracks):
        yield "Channels ablated, % of accuracy: area under the curve; what one channel costs, mean and largest", "bold"
    for track in tracks:
        for curve, reliance in zip(track.ablation, track.reliance, strict=True):
            costs = f"{reliance.mean:.2f}, {reliance.max:.2f}"
            yield f"  {track.name:<14} {curve.place:<22} area {curve.area:5.1f}; one costs {costs}", ""


def median(values: tuple[float, ...] | list[float]) -> float:
    """Of those that are numbers."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.median(known)) if known else math.nan


def _spaced(paragraph: Iterator[Line]) -> Iterator[Line]:
    found = list(paragraph)
    if found:
        yield "", ""
        yield from found
