"""How to read each figure, in the words under it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from normlab.page import format as fmt
from normlab.study.report import wording
from normlab.study.report.stopping import interval_kind
from normlab.study.stats.result import Comparisons, Floats


def pairs(c: Comparisons) -> str:
    """Of the strips of paired runs."""
    return (
        f"Every seed: {wording.metric(c.scores)} of the baseline (left) joined to that of the recipe (right). "
        "Blue: the recipe is better on that seed; orange: worse. Diamonds: means. An arrow marks a value outside the "
        "axis. Parallel lines mean that pairing by seed helps."
    )


def forest(c: Comparisons) -> str:
    """Of the differences with intervals."""
    ci = fmt.percent(c.settings.confidence)
    band = " Grey band: differences that count as equivalent." if c.settings.equivalence is not None else ""
    return (
        f"Mean difference to the baseline with its {ci} interval ({interval_kind(c)}; thick); below it the sign-flip "
        f"interval (thin) and the bootstrap-t interval (dotted).{band} Blue and orange: better and worse by the "
        "adjusted test. Intervals are not adjusted for the number of recipes."
    )


def looks() -> str:
    """Of the looks of a stopping rule."""
    return (
        "Paired t at every look made, positive where the recipe is better. Dashed: the bounds, above which it is found "
        "better and below which worse, at the level that Holm's method left to the recipe at its last look; those of "
        "the first looks may lie outside the axis. A cross marks a recipe that was given up, an arrow a t outside."
    )


def curves(metric: str, runs: Mapping[str, Floats]) -> str:
    """Of training curves; says how many runs end early."""
    early = {arm: int((~np.isfinite(values[:, -1])).sum()) for arm, values in runs.items() if values.size}
    ended = ", ".join(f"{n} of {fmt.printable(arm)}" for arm, n in early.items() if n)
    note = f" Runs that end early leave the band there: {ended}." if ended else ""
    name = fmt.printable(metric.replace("_", " "))
    return f"{name.capitalize()} by epoch: median over seeds and the middle 80 % of them; the baseline in grey.{note}"


def power(c: Comparisons, level: float) -> str:
    """Of the power curves."""
    s = c.settings
    return (
        f"Chance that a {wording.side(s)} test at level {fmt.p_value(level)} (Holm's next step) finds the effect, "
        "if it is as large as the one observed; zero where the exact test has too few seeds to say so. Vertical line: "
        f"the seeds of this study; dashed: {fmt.percent(s.power)}. Observed effects scatter, and that of the best of "
        "many recipes is too large: plan with smaller ones."
    )
