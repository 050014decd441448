"""Estimates and intervals after a stop."""

from __future__ import annotations

import numpy as np
import pytest

from normlab.study.stats import Settings, compare, t_interval
from normlab.study.stats.stopping import Design, adjusted, follow
from normlab.study.stats.stopping.expected import t_paths
from normlab.study.stats.stopping.judge import Stopping
from tests.unit.stats.builders import scores, within_binomial

LOOKS = (5, 10, 15)
NAN = np.nan
OBF, POCOCK, ANYTIME = Design("obrien_fleming", LOOKS), Design("pocock", LOOKS), Design("anytime", tuple(range(2, 16)))


def stopped(design: Design, effect: float, studies: int, confidence: float = 0.95):
    """Simulated studies: course, gains until it stopped, what is made of them."""
    x = np.random.default_rng(9).standard_normal((studies, 15)) + effect
    for gains, t in zip(x, t_paths(x, design.looks), strict=True):
        (course,) = follow(t[None], design)
        seen = gains[: design.looks[course.looks - 1]]
        yield course, seen, adjusted(seen, course, design, confidence)


@pytest.mark.parametrize("design", [OBF, POCOCK, ANYTIME], ids=lambda d: d.rule)
@pytest.mark.parametrize("effect", [0.0, 1.0])
def test_intervals_cover_after_a_stop(design, effect):
    studies = 100
    found = [a.interval for _, _, a in stopped(design, effect, studies)]
    covered = sum(low <= effect <= high for low, high in found)
    assert covered >= 0.93 * studies or within_binomial(covered, studies, 0.95, 3)


def test_the_estimate_is_smaller_than_the_mean_after_an_early_stop():
    """The mean of a study that stopped because its mean was large is too large: medians of both."""
    all_ = list(stopped(POCOCK, 0.7, 120))
    found = [(a.estimate, seen.mean()) for c, seen, a in all_ if c.decided in (1, 2)]
    estimates, means = np.array(found).T
    assert (estimates < means + 1e-3).mean() > 0.9
    assert within_binomial(sum(a.estimate < 0.7 for _, _, a in all_), len(all_), 0.5, 3)


@pytest.mark.parametrize("design", [OBF, POCOCK], ids=lambda d: d.rule)
def test_stagewise_p_agrees_with_the_decision_of_one_arm(design):
    for course, _, found in stopped(design, 0.8, 30):
        assert found.p_stagewise is not None
        assert (found.p_stagewise <= 0.0503) == (course.outcome == "better")
        assert found.interval[0] < found.estimate < found.interval[1]


def test_a_stop_at_the_first_look_is_the_t_test_of_it():
    gains = np.array([2.0, 2.1, 1.9, 2.05, 1.95])
    (course,) = follow(np.array([[gains.mean() * np.sqrt(5) / gains.std(ddof=1), np.nan, np.nan]]), OBF)
    found = adjusted(gains, course, OBF, 0.95)
    assert course.decided == 1
    np.testing.assert_allclose(found.interval, t_interval(gains, 0.95), rtol=1e-6)
    assert found.estimate == pytest.approx(gains.mean())


def test_an_earlier_stop_is_the_more_extreme_result():
    early, late = (follow(np.array([t]), POCOCK)[0] for t in ([3.5, np.nan, np.nan], [1.0, 3.5, np.nan]))
    five, ten = (np.resize([1.0, -1.0, 0.5, -0.5, 0.0], n) for n in (5, 10))
    first, second = (
        adjusted(x - x.mean() + 3.5 * x.std(ddof=1) / np.sqrt(len(x)), c, POCOCK, 0.95)
        for x, c in ((five, early), (ten, late))
    )
    assert first.p_stagewise is not None
    assert second.p_stagewise is not None
    assert first.p_stagewise < 0.0215 < second.p_stagewise


def test_an_arm_that_goes_on_has_the_repeated_interval():
    gains = np.array([0.5, -0.2, 0.9, 0.1, 0.4])
    (course,) = follow(np.array([[2.0, np.nan, np.nan]]), POCOCK)
    found = adjusted(gains, course, POCOCK, 0.95)
    half = float(POCOCK.test.bounds(0.025)[0]) * gains.std(ddof=1) / np.sqrt(5)
    np.testing.assert_allclose(found.interval, (gains.mean() - half, gains.mean() + half))
    assert (found.method, found.p_stagewise) == ("repeated", None)


def test_gains_and_intervals_have_the_sign_of_the_metric_where_low_is_good():
    rng = np.random.default_rng(0)
    base = rng.normal(2.0, 0.1, 5)
    loss = scores({"base": base, "lower": base - 1 + rng.normal(0, 0.02, 5)}, metric="test_loss")
    t = np.array([[50.0, np.nan, np.nan]])
    stopping = Stopping(POCOCK, {"lower": follow(t, POCOCK)[0]})
    (row,) = compare(loss, Settings("base", better="lower"), stopping=stopping).rows
    assert row.verdict == "better"
    assert row.interval[0] < -1 < row.interval[1] < 0
    assert row.stopped is not None
    assert row.stopped.estimate == pytest.approx(-1, abs=0.05)


@pytest.mark.parametrize(("looks", "asked"), [(1, False), (3, True)])
def test_equivalence_is_asked_at_the_last_look_only(looks, asked):
    """What is looked at three times for equivalence, each time at the full level, is found equivalent too often."""
    rng = np.random.default_rng(0)
    base = rng.normal(90, 1, 15)
    same = base + rng.normal(0, 0.01, 15)
    values = scores({"base": base, "same": same})
    values.values[:, LOOKS[looks - 1] :] = np.nan
    t = np.full((1, 3), np.nan)
    t[0, :looks] = 0.1
    stopping = Stopping(OBF, {"same": follow(t, OBF)[0]})
    (row,) = compare(values, Settings("base", equivalence=0.5), stopping=stopping).rows
    assert (row.verdict == "equivalent") == asked


def test_what_another_arm_left_its_level_is_ordered_where_it_crossed_the_bounds_of_that_level():
    gains = np.array([0.1, 0.6, 1.1, 1.6, 2.1, -3, 3, -2, 2, 0, -3, 3, -2, 2, 0])
    t = t_paths(gains[None], LOOKS)[0]
    other = np.array([1.0, 9.0, NAN])
    course = follow(np.stack([t, other]), POCOCK)[0]
    assert (course.outcome, course.decided) == ("better", 2)
    assert POCOCK.bounds(0.025)[0] > t[0] > POCOCK.bounds(0.05)[0]
    assert t[1] < POCOCK.bounds(0.05)[1]
    found = adjusted(gains[:10], course, POCOCK, 0.9)
    assert found.p_stagewise < 0.0503
    np.testing.assert_allclose(found.interval, t_interval(gains[:5], 0.9), rtol=1e-6)


def test_an_interval_of_two_pairs_is_as_wide_as_it_has_to_be():
    design, gains = Design("pocock", (2, 4)), np.array([1.0, 1.001])
    (course,) = follow(np.array([[gains.mean() * np.sqrt(2) / gains.std(ddof=1), NAN]]), design)
    assert course.decided == 1
    np.testing.assert_allclose(adjusted(gains, course, design, 0.9999).interval, t_interval(gains, 0.9999), rtol=1e-6)
