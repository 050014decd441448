from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import pytest

from normlab.errors import SpecError
from normlab.study.stats import Settings, compare, crossed_bootstrap
from tests.unit.stats.builders import scores, within_binomial


def disagreements(seeds: int, examples: int, share: float = 0.1, gain: float = 0.0, seed: int = 0) -> np.ndarray:
    """[seeds, examples] of -1, 0, 1: independent, with `share` of them not zero."""
    u = np.random.default_rng(seed).uniform(size=(seeds, examples))
    return (u < (share + gain) / 2).astype(np.int8) - (u > 1 - (share - gain) / 2)


def literal_bootstrap(d: np.ndarray, resamples: int) -> np.ndarray:
    """Owen's pigeonhole bootstrap word for word."""
    rng = np.random.default_rng(1)
    rows = rng.integers(0, d.shape[0], size=(resamples, d.shape[0]))
    columns = rng.integers(0, d.shape[1], size=(resamples, d.shape[1]))
    return np.array([d[r][:, c].mean() for r, c in zip(rows, columns, strict=True)])


@pytest.mark.parametrize(("seeds", "examples"), [(15, 400), (5, 150)])
def test_crossed_bootstrap_is_the_literal_one_with_its_seeds_widened(seeds, examples):
    d = disagreements(seeds, examples) + (np.arange(examples) % 20 == 0) * (np.arange(seeds)[:, None] % 3 - 1)
    found = crossed_bootstrap(d, resamples=20_000)
    shrunk = np.var(d.mean(axis=1)) / seeds  # what a literal bootstrap loses by 1/n for 1/(n - 1)
    expected = math.sqrt(literal_bootstrap(d, 4000).var() + shrunk / (seeds - 1))
    assert found.se_total == pytest.approx(expected, rel=0.05)
    assert found.se_examples == pytest.approx(d.mean(axis=0).std(ddof=1) / math.sqrt(examples))


@pytest.mark.parametrize(("examples", "share", "points"), [(10_000, 0.10, 0.32), (5794, 0.30, 0.72)])
def test_se_of_one_pair_of_runs_is_that_of_the_notes(examples, share, points):
    """One seed's disagreement, held by every seed: sqrt(share / examples)."""
    d = np.repeat(disagreements(1, examples, share), 3, axis=0)
    found = crossed_bootstrap(d, scale=100)
    assert found.se_examples == pytest.approx(points, abs=0.015)
    assert found.disagreement == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("seeds", [5, 15])
def test_interval_covers_over_seeds_and_examples(seeds):
    """Truth: effects of seeds, of examples and of both, all random; the mean over all of them is zero."""
    rng, covered, repeats = np.random.default_rng(seeds), 0, 400
    for _ in range(repeats):
        d = 0.02 * rng.normal(size=(seeds, 1)) + 0.4 * rng.normal(size=(1, 300)) + 0.5 * rng.normal(size=(seeds, 300))
        low, high = crossed_bootstrap(d, resamples=500).interval
        covered += low <= 0 <= high
    assert covered >= repeats * 0.95 or within_binomial(covered, repeats, 0.95)
    assert covered < repeats  # not by being infinitely wide


@pytest.mark.parametrize("examples", [1200, 10_000])
def test_two_thousand_resamples_take_far_less_than_a_second(examples):
    d = disagreements(15, examples)
    start = time.perf_counter()
    crossed_bootstrap(d, resamples=2000)
    assert time.perf_counter() - start < 0.5


@pytest.mark.parametrize("shape", [(1, 50), (5, 1), (5,)], ids=str)
def test_too_little_to_resample_is_refused(shape):
    with pytest.raises(SpecError, match="two or more of each"):
        crossed_bootstrap(np.zeros(shape))


def test_equal_predictions_leave_nothing_uncertain():
    found = crossed_bootstrap(np.zeros((4, 30)))
    assert (found.disagreement, found.se_examples, found.se_total, found.interval) == (0, 0, 0, (0, 0))


CORRECT = {arm: np.random.default_rng(k).uniform(size=(5, 200)) < 0.8 for k, arm in enumerate(("base", "a"))}
ACCURACY = scores({arm: 100 * c.mean(axis=1) for arm, c in CORRECT.items()}, unit="%", correct=CORRECT)


@pytest.mark.parametrize(
    ("changed", "pairs"),
    [
        ({}, 5),
        ({"diverged": frozenset({("base", "s0"), ("a", "s1")})}, 3),
        ({"values": np.where(np.arange(5) == 2, np.nan, ACCURACY.values)}, 4),
        ({"values": ACCURACY.values / 100, "unit": ""}, 5),
        ({"values": 100 - ACCURACY.values}, 0),  # another metric than the share of correct examples
        ({"correct": None}, 0),
        ({"correct": {"a": CORRECT["a"]}}, 0),
    ],
    ids=["all", "diverged", "missing", "fraction", "other-metric", "unknown", "unknown-baseline"],
)
def test_which_pairs_enter(changed, pairs):
    given = replace(ACCURACY, **changed)
    row = compare(given, Settings("base")).rows[0]
    if pairs == 0:
        assert row.test_set is None
        return
    assert row.test_set is not None
    keep = {5: [0, 1, 2, 3, 4], 4: [0, 1, 3, 4], 3: [2, 3, 4]}[pairs]
    expected = CORRECT["a"][keep].astype(float) - CORRECT["base"][keep]
    scale = 100 if given.unit else 1
    assert row.test_set.se_examples == pytest.approx(scale * expected.mean(axis=0).std(ddof=1) / math.sqrt(200))
