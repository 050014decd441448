from __future__ import annotations

import re

import numpy as np
import pytest

from normlab.study.stats import Scores, Settings, check, compare
from tests.unit.stats.builders import normal, scores

NORMAL = normal((3, 8), mean=80.0)
GOOD = {"base": NORMAL[0], "a": NORMAL[1] - 40 + NORMAL[0] / 2, "b": NORMAL[2] - 40 + NORMAL[0] / 2}
NAN, INF = float("nan"), float("inf")


def changed(arm: str, **by_place: float) -> dict[str, np.ndarray]:
    values = GOOD[arm].copy()
    for place, value in by_place.items():
        values[int(place[1:])] = value
    return {**GOOD, arm: values}


def correct_of(arms: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Correctness of 1000 examples that gives just these accuracies in %."""
    return {arm: np.arange(1000) < np.round(10 * values)[:, None] for arm, values in arms.items()}


ROUNDED = {arm: np.round(values, 1) for arm, values in GOOD.items()}

CASES = {
    "good": (GOOD, {}, {}, set(), ""),
    "seed-not-applied": (
        {**GOOD, "a": np.full(8, 81.5)},
        {},
        {},
        {"error identical-seeds"},
        "8 results of arm 'a' are 81.5",
    ),
    "same-arm-twice": ({**GOOD, "b": GOOD["a"]}, {}, {}, {"error duplicate-arms"}, "'a' and 'b' agree on all 8"),
    "gap": (changed("a", s3=NAN), {}, {}, {"warning gap"}, r"a \(seed s3\)"),
    "infinite": (changed("a", s3=INF), {}, {}, {"error not-finite"}, r"a \(seed s3\)"),
    "failed": (
        changed("a", s3=NAN, s4=NAN),
        {"failed": frozenset({("a", "s3"), ("a", "s4")})},
        {},
        {"warning failed"},
        r"a \(seeds s3, s4\)",
    ),
    "diverged": (
        changed("b", s5=10.0),
        {"diverged": frozenset({("b", "s5")}), "diverged_as": "chance level, 10 %"},
        {},
        {"warning diverged"},
        r"counted as chance level, 10 %: b \(seed s5\)",
    ),
    "too-few": (
        {k: v[:5] for k, v in GOOD.items()},
        {},
        {},
        {"warning too-few-seeds"},
        "5 pairs .* 0.031, .* 0.025: 6 seeds",
    ),
    "too-few-two-sided": (
        {k: v[:6] for k, v in GOOD.items()},
        {},
        {"alternative": "two-sided"},
        {"warning too-few-seeds"},
        "0.031, .* 7 seeds",
    ),
    "ceiling": (
        {**GOOD, "a": 99.9 + NORMAL[1] / 1e5 + 0.01},
        {"unit": "%"},
        {},
        {"warning ceiling"},
        "'a' are at the ceiling",
    ),
    "everything-perfect": (
        {"base": np.full(8, 1.0), "a": np.full(8, 1.0)},
        {},
        {},
        {"warning ceiling"},
        "'base', 'a' are at the ceiling",
    ),
    "everything-equal": (
        {"base": np.full(8, 7.5), "a": np.full(8, 7.5)},
        {},
        {},
        {"error identical-seeds"},
        "arm 'base' are 7.5: its seed seems not to be applied",
    ),
    "outlier": (changed("a", s2=30.0), {}, {}, {"warning outlier"}, r"'a' far from .* at seed s2 \(-5"),
    "pairing": ({**GOOD, "a": 200 - GOOD["base"] + NORMAL[1]}, {}, {}, {"note pairing"}, r"a -0\.\d\d"),
    "outside": (GOOD, {}, {"family": ("a",)}, {"note outside-family"}, "outside the family: b"),
    "no-treatment": ({"base": GOOD["base"]}, {}, {}, set(), ""),
}


@pytest.mark.parametrize(("arms", "given", "settings", "expected", "words"), CASES.values(), ids=list(CASES))
def test_findings(arms, given, settings, expected, words):
    found = check(scores(arms, **given), Settings("base", **settings))
    assert expected <= {f"{f.level} {f.code}" for f in found}
    assert expected or not found
    text = next((f.text for f in found if f"{f.level} {f.code}" in expected), "")
    assert re.search(words, text), text


def test_errors_come_first():
    arms = {**changed("a", s3=NAN), "b": np.full(8, 1.0)}
    levels = [f.level for f in check(scores(arms), Settings("base"))]
    assert levels == sorted(levels, key=("error", "warning", "note").index)


@pytest.mark.parametrize("n", [6, 15])
def test_normal_differences_are_seldom_called_outliers(n):
    called = 0
    for x in normal((300, n), seed=n):
        arms = {"base": np.zeros(n) + np.arange(n), "a": x + np.arange(n)}
        called += any(f.code == "outlier" for f in check(scores(arms), Settings("base")))
    assert called <= 300 * (0.10 if n < 10 else 0.03)


def test_a_diverged_run_without_a_value_is_no_gap():
    values = np.arange(10.0).reshape(2, 5) + np.random.default_rng(0).normal(size=(2, 5))
    values[0, 1] = np.nan
    found = Scores("m", ("base", "a"), tuple("12345"), values, diverged=frozenset({("base", "2")}))
    assert "gap" not in [f.code for f in check(found, Settings("base"))]
    assert len(compare(found, Settings("base", resamples=100)).rows[0].seeds) == 5
