"""What a reader must know before believing a comparison: one rule per failure that spoils tables of runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from normlab.study.stats.effects import correlation
from normlab.study.stats.pairs import Pairs, of_arm, pair
from normlab.study.stats.power import fewest_seeds
from normlab.study.stats.request import checked_family
from normlab.study.stats.result import Finding, Floats, Scores, Settings

_CEILING = 0.999  # of the best value that is possible
_OUTLIER = 6.0  # robust SDs
_OUTLIER_PAIRS = 6  # with fewer, the median deviation is no yardstick


@dataclass(frozen=True)
class _Case:
    scores: Scores
    settings: Settings
    family: tuple[str, ...]
    pairs: tuple[Pairs, ...]

    def finished(self, arm: str) -> Floats:
        """Values of the runs that neither failed nor diverged."""
        s = self.scores
        ran = np.array([(arm, seed) not in s.diverged for seed in s.seeds])
        values = s.values[s.arms.index(arm)]
        return values[ran & np.isfinite(values)]

    @cached_property
    def best(self) -> float:
        """The best value that the metric can have, as far as one can tell: 100 %, or 1 where all values are shares."""
        values = self.scores.values[np.isfinite(self.scores.values)]
        share = values.size > 0 and values.min() >= 0 and values.max() <= 1
        return 100.0 if self.scores.unit == "%" else 1.0 if share else np.inf


def check(scores: Scores, settings: Settings) -> tuple[Finding, ...]:
    """Look for what makes a comparison wrong or weak: seeds not applied, arms that are one, gaps, too few seeds, ...

    Raises:
        SpecError: a setting that cannot be used; UnknownName where it names no arm.
    """
    family = checked_family(scores, settings)
    case = _Case(scores, settings, family, tuple(pair(scores, arm, settings) for arm in family))
    found = [finding for rule in _RULES for finding in rule(case)]
    return tuple(sorted(found, key=lambda f: ("error", "warning", "note").index(f.level)))


def _identical_seeds(case: _Case) -> Iterator[Finding]:
    for arm in case.scores.arms:
        values = case.finished(arm)
        if len(values) < 2 or np.ptp(values) > 0 or _at_ceiling(values, case):
            continue
        same = f"All {len(values)} results of arm {arm!r} are {values[0]:.6g}"
        if arm in case.scores.seeded:
            why = "its runs differ otherwise, so it has learned nothing yet, or the metric is too coarse"
            yield Finding("warning", "one-value", f"{same}: {why}.")
        else:
            yield Finding("error", "identical-seeds", f"{same}: its seed seems not to be applied.")


def _duplicate_arms(case: _Case) -> Iterator[Finding]:
    s, known = case.scores, np.isfinite(case.scores.values)
    for a, arm in enumerate(s.arms):
        both = known[a] & known[a + 1 :]  # [later arms, seeds]
        same = (s.values[a] == s.values[a + 1 :]) | ~both
        for k in np.flatnonzero(same.all(axis=1) & (both.sum(axis=1) >= 2)):
            if np.ptp(s.values[a][both[k]]) > 0:
                yield Finding(
                    "error",
                    "duplicate-arms",
                    f"Arms {arm!r} and {s.arms[a + 1 + k]!r} agree on all {both[k].sum()} common seeds: "
                    "they seem to be one arm run twice.",
                )


def _not_finite(case: _Case) -> Iterator[Finding]:
    where = [(case.scores.arms[a], case.scores.seeds[k]) for a, k in np.argwhere(np.isinf(case.scores.values))]
    if where:
        yield Finding("error", "not-finite", f"Infinite results are left out: {_runs(where)}.")


def _gaps(case: _Case) -> Iterator[Finding]:
    s = case.scores
    absent = [
        (s.arms[a], s.seeds[k])
        for a, k in np.argwhere(np.isnan(s.values))
        if (s.arms[a], s.seeds[k]) not in s.failed | s.unused | s.diverged
    ]
    if absent:
        yield Finding("warning", "gap", f"No result, so no pair: {_runs(absent)}.")


def _failed(case: _Case) -> Iterator[Finding]:
    if case.scores.failed:
        yield Finding(
            "warning", "failed", f"Runs that raised an error, so no pair: {_runs(_in_order(case, case.scores.failed))}."
        )


def _diverged(case: _Case) -> Iterator[Finding]:
    if case.scores.diverged:
        counted = f", counted as {case.scores.diverged_as}" if case.scores.diverged_as else ""
        yield Finding(
            "warning", "diverged", f"Training diverged{counted}: {_runs(_in_order(case, case.scores.diverged))}."
        )


def _too_few_seeds(case: _Case) -> Iterator[Finding]:
    level = case.settings.alpha / max(1, len(case.family))
    needed = fewest_seeds(level, case.settings.alternative)
    short = {p.arm: len(p.seeds) for p in case.pairs if len(p.seeds) < needed}
    if not short:
        return
    n, sides = min(short.values()), 1 if case.settings.alternative == "greater" else 2
    yield Finding(
        "warning",
        "too-few-seeds",
        f"With {n} pair{'s' * (n != 1)} the exact test cannot give p below {min(1, sides / 2**n):.2g}, and Holm's "
        f"first step over {len(case.family)} comparison{'s' * (len(case.family) != 1)} asks for {level:.2g}: "
        f"{needed} seeds are the fewest that can ({', '.join(short)}).",
    )


def _ceiling(case: _Case) -> Iterator[Finding]:
    full = [arm for arm in case.scores.arms if _at_ceiling(case.finished(arm), case)]
    if full:
        yield Finding(
            "warning",
            "ceiling",
            f"All results of {', '.join(map(repr, full))} are at the ceiling: a harder task would tell the arms apart.",
        )


def _at_ceiling(values: Floats, case: _Case) -> bool:
    """Everything within a thousandth of the best value there is."""
    return len(values) >= 2 and case.settings.better == "higher" and bool(values.min() >= _CEILING * case.best)


def _outliers(case: _Case) -> Iterator[Finding]:
    for p in case.pairs:
        far = [k for k in _far_out(p.differences) if p.clean[k]]
        if far:
            seeds = ", ".join(f"{p.seeds[k]} ({p.differences[k]:+.3g})" for k in far)
            yield Finding(
                "warning",
                "outlier",
                f"Differences of {p.arm!r} far from their median {np.median(p.differences):+.3g}, at seed {seeds}: "
                "see whether these runs collapsed; Wilcoxon's p hardly depends on them.",
            )


def _far_out(d: Floats) -> Iterable[int]:
    """Pairs more than six robust SDs from the median; none where over half of the differences are equal."""
    if len(d) < _OUTLIER_PAIRS:
        return []
    deviation = np.abs(d - np.median(d))
    scale = 1.4826 * np.median(deviation)
    return [int(k) for k in np.flatnonzero(deviation > _OUTLIER * scale)] if scale > 0 else []


def _pairing(case: _Case) -> Iterator[Finding]:
    rho = {p.arm: correlation(p.treatment, p.control) for p in case.pairs if len(p.seeds) >= 3}
    useless = [f"{arm} {r:+.2f}" for arm, r in rho.items() if r <= 0]
    if useless:
        yield Finding("note", "pairing", f"Pairing by seed gains nothing where ρ <= 0: {', '.join(useless)}.")


def _outside_family(case: _Case) -> Iterator[Finding]:
    outside = [a for a in case.scores.arms if a not in case.family and a != case.settings.baseline]
    if outside:
        yield Finding("note", "outside-family", f"Not compared, being outside the family: {', '.join(outside)}.")


def _in_order(case: _Case, runs: frozenset[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(arm, seed) for arm in case.scores.arms for seed in of_arm(runs, arm, case.scores.seeds)]


def _runs(runs: Iterable[tuple[str, str]]) -> str:
    """`base (seeds 3, 4), group (seed 7)`."""
    by_arm: dict[str, list[str]] = {}
    for arm, seed in runs:
        by_arm.setdefault(arm, []).append(seed)
    return ", ".join(f"{arm} (seed{'s' * (len(s) > 1)} {', '.join(s)})" for arm, s in by_arm.items())


_RULES: tuple[Callable[[_Case], Iterator[Finding]], ...] = (
    _identical_seeds,
    _duplicate_arms,
    _not_finite,
    _gaps,
    _failed,
    _diverged,
    _too_few_seeds,
    _ceiling,
    _outliers,
    _pairing,
    _outside_family,
)
