"""How numbers are written: the one place, for every writer."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

MINUS = "−"
NOTHING = "—"  # where there is no number
NBSP = "\N{NO-BREAK SPACE}"  # keeps a number and what belongs to it on one line


def decimals(spreads: Iterable[float]) -> int:
    """Decimals that show a typical SD with two significant digits, so that a table has one number of them.

    The lower median: one arm with diverged runs, or one without any spread, does not decide for the others.
    """
    known = [s for s in spreads if math.isfinite(s) and s > 1e-12]
    if not known:
        return 2
    return min(max(1 - math.floor(math.log10(statistics.median_low(known))), 0), 8)


def number(x: float, places: int, *, signed: bool = False) -> str:
    """`89.44`, `+0.61`, `−0.04`; huge values as `1.2e30`."""
    if math.isnan(x):
        return NOTHING
    if math.isinf(x):
        return ("+" if x > 0 and signed else MINUS if x < 0 else "") + "∞"
    digits = f"{abs(x):.1e}".replace("e+", "e") if abs(x) >= 1e6 else f"{abs(x):.{places}f}"
    if float(digits) == 0:  # never −0.00
        return digits
    return (MINUS if x < 0 else "+" if signed else "") + digits


def mean_sd(mean: float, sd: float, places: int) -> str:
    """`89.44 ± 0.45`; without an SD the mean alone."""
    if math.isnan(mean) or math.isnan(sd):
        return number(mean, places)
    return f"{number(mean, places)}{NBSP}±{NBSP}{number(sd, places)}"


def interval(ends: tuple[float, float], places: int) -> str:
    """`[−0.02, +0.76]`."""
    if any(math.isnan(end) for end in ends):
        return NOTHING
    low, high = (number(end, places, signed=True) for end in ends)
    return f"[{low},{NBSP}{high}]"


def estimate(x: float, ends: tuple[float, float], places: int, unit: str = "") -> str:
    """`+0.61 points [+0.21, +1.01]`; without an interval where there is none."""
    value = number(x, places, signed=True) + unit
    return value if any(math.isnan(end) for end in ends) else f"{value} {interval(ends, places)}"


def p_value(p: float) -> str:
    """`.004`, `<.0001`, `1.0`: three decimals below .1, two above."""
    if math.isnan(p):
        return NOTHING
    if p < 1e-4:
        return "<.0001"
    if p >= 0.995:
        return "1.0"
    return f"{p:.{4 if p < 1e-3 else 3 if p < 0.1 else 2}f}".removeprefix("0")


def p_equals(p: float, name: str = "p") -> str:
    """`p = .004`, `p < .0001`."""
    text = p_value(p)
    return f"{name}{NBSP}<{NBSP}{text[1:]}" if text.startswith("<") else f"{name}{NBSP}={NBSP}{text}"


def level(alpha: float) -> str:
    """A level as it is written, `.05`."""
    return f"{alpha:g}".removeprefix("0")


def percent(share: float) -> str:
    """`93 %` of a share in [0, 1]; `97.5 %` where a whole number would not do."""
    if math.isnan(share):
        return NOTHING
    return f"{round(100 * share, 1):g}{NBSP}%"


def chance(share: float) -> str:
    """A share that was estimated from a few seeds, in whole percent."""
    return percent(share if math.isnan(share) else round(share, 2))


def count(n: int) -> str:
    """`10,000`."""
    return f"{n:,}"


def plural(n: int, noun: str) -> str:
    """`1 seed`, `15 seeds`."""
    return f"{count(n)}{NBSP}{noun}{'' if n == 1 else 's'}"


def seeds(labels: Sequence[str]) -> str:
    """`seed 7`, `seeds 3, 5, 8`."""
    return f"seed{'' if len(labels) == 1 else 's'} {', '.join(map(printable, labels))}"


def enumeration(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else ""


def duration(seconds: float) -> str:
    """`0.012 s`, `48 s`, `12 min`, `3 h 12 min`, `6.5 days`."""
    minutes = round(seconds / 60)
    if 0 < seconds < 9.95:
        return f"{seconds:.2g}{NBSP}s"
    if seconds < 90:
        return f"{seconds:.0f}{NBSP}s"
    if minutes < 60:
        return f"{minutes}{NBSP}min"
    if minutes >= 48 * 60:
        days = minutes / (24 * 60)
        return f"{days:,.{0 if days >= 100 else 1}f}{NBSP}days"
    return f"{minutes // 60:,}{NBSP}h{NBSP}{minutes % 60}{NBSP}min"


def printable(text: str) -> str:
    """The text on one line, without the control characters that a terminal or an XML reader would act on."""
    return " ".join("".join(c if c.isprintable() or c == NBSP else " " for c in text).split(" ")).strip()
