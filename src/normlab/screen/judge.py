"""From what was measured to a score, a verdict and its reason in words.

The score multiplies what speaks against a candidate:

    score = 100 · (1 - c) · 10^-(E + F + N)
    E = max(0, growth - d/2) + max(0, explosion - d)     decades beyond what training stands; d = max(1, places / 22)
    F = max(0, fading - 2d) + max(0, vanishing - 2d)
    N = max(0, noise - 1/2)

c is the mean pairwise cosine over depth: 1 - c is what is left of the differences between examples. Above the limits
each decade of activation variance or gradient costs a factor of ten. The limits were set on one panel of
studies/screen.toml, whose network has 22 places; that of the noise by rule of thumb, half of an output's spread. Deeper
networks than there are in the study get limits in proportion, since every layer may do its share.

A network through which no signal gets, or no gradient back, is dead and has 0, whatever else is found of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from normlab.screen.measure import Properties

Verdict = Literal["healthy", "slow", "unstable", "dead"]

GROWTH, EXPLOSION, FADING, VANISHING, NOISE = 0.5, 1.0, 2.0, 2.0, 0.5
PLACES = 22
UNSTABLE = 0.25
ALIKE = 0.7


@dataclass(frozen=True)
class Limits:
    """Decades that a network of its depth stands."""

    growth: float
    explosion: float
    fading: float
    vanishing: float


def limits(p: Properties) -> Limits:
    """For so many places."""
    depth = max(1.0, len(p.profile["mean_cosine"]) / PLACES)
    return Limits(GROWTH * depth, EXPLOSION * depth, FADING * depth, VANISHING * depth)


def excess(p: Properties) -> float:
    """Decades of activation variance and gradient beyond the limits."""
    limit = limits(p)
    return max(0.0, p.growth - limit.growth) + max(0.0, p.explosion - limit.explosion)


def score(p: Properties) -> float:
    """From 0 to 100, to three digits, so that what does the same is tied; 0 where something is not finite, or dead."""
    if not p.finite or p.dead:
        return 0.0
    limit = limits(p)
    lost = max(0.0, p.fading - limit.fading) + max(0.0, p.vanishing - limit.vanishing)
    noise = 0.0 if p.noise is None else max(0.0, p.noise - NOISE)
    return float(f"{100 * (1 - max(0.0, p.cosine)) * 10 ** -(excess(p) + lost + noise):.3g}")


def verdict(p: Properties) -> Verdict:
    """One word."""
    if p.finite and p.dead:
        return "dead"
    if not p.finite or excess(p) > UNSTABLE:
        return "unstable"
    noisy = p.noise is not None and p.noise > NOISE
    limit = limits(p)
    slow = p.cosine > ALIKE or p.fading > limit.fading or p.vanishing > limit.vanishing or noisy
    return "slow" if slow else "healthy"


def reason(p: Properties) -> str:
    """Why, worst first; of a healthy one what was found."""
    if not p.finite:
        return "the loss or a gradient is NaN or infinite before the first step"
    if p.dead:
        return p.dead
    found = list(_against(p))
    if found:
        return "; ".join(found)
    ways = f"activation variance grows {times(p.growth)} with depth, gradients {times(p.explosion)} on their way back"
    return f"nothing against it: {_apart(p)}; {ways}"


def _against(p: Properties) -> Iterator[str]:
    limit = limits(p)
    if p.growth > limit.growth:
        yield f"activation variance grows {times(p.growth)} with depth"
    if p.explosion > limit.explosion:
        yield f"gradients grow {times(p.explosion)} on their way back to the early layers"
    if p.noise is not None and p.noise > NOISE:
        yield f"outputs move by {p.noise:.2g} of their spread with the rest of the batch: moments of too few values"
    if p.cosine > ALIKE:
        yield f"examples look alike: {_apart(p)}"
    if p.fading > limit.fading:
        yield f"activation variance falls to 1/{10**p.fading:.0f} with depth"
    if p.vanishing > limit.vanishing:
        yield f"gradients fall to 1/{10**p.vanishing:.0f} on their way back to the early layers"


def _apart(p: Properties) -> str:
    return f"mean cosine {p.cosine:.2f}, stable rank {p.rank:.1f} of {p.examples}"


def times(decades: float) -> str:
    """A factor as people write it: ×3.2, ×40, ×1e+07."""
    if abs(decades) >= 4:
        return f"×1e{decades:+.0f}"
    factor = 10**decades
    return f"×{factor:.2g}" if factor < 10 else f"×{factor:.0f}"
