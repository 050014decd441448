from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from normlab.study.stats.published import Published, difference_interval, reproduce
from normlab.study.stats.result import ArmSummary, Scores


@pytest.mark.parametrize("confidence", [0.9, 0.95])
@pytest.mark.parametrize("n", [(2, 15), (15, 15), (5, 4)])
def test_interval_is_welchs(n, confidence):
    rng = np.random.default_rng(sum(n))
    ours, theirs = rng.normal(90, 0.4, n[0]), rng.normal(89, 1.3, n[1])
    wanted = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(confidence)
    found = difference_interval(
        ArmSummary("a", n[0], ours.mean(), ours.std(ddof=1)),
        Published(theirs.mean(), theirs.std(ddof=1), n[1]),
        confidence,
    )
    np.testing.assert_allclose(found, (wanted.low, wanted.high), rtol=1e-9)


@pytest.mark.parametrize("published", [Published(44.75), Published(44.75, 0.3), Published(44.75, None, 4)])
def test_a_published_mean_without_spread_is_taken_as_it_stands(published):
    ours = np.array([44.1, 45.3, 44.9])
    wanted = stats.ttest_1samp(ours, 44.75).confidence_interval(0.95)
    found = difference_interval(ArmSummary("a", 3, ours.mean(), ours.std(ddof=1)), published)
    np.testing.assert_allclose(found, np.array([wanted.low, wanted.high]) - 44.75, rtol=1e-9)


def test_one_run_has_no_interval_and_equal_runs_a_point():
    assert all(map(math.isnan, difference_interval(ArmSummary("a", 1, 90.0, math.nan), Published(89.0, 0.2, 15))))
    assert difference_interval(ArmSummary("a", 3, 90.0, 0.0), Published(89.0)) == (1.0, 1.0)


def test_failed_runs_do_not_count():
    scores = Scores("test_accuracy", ("base", "new"), ("1", "2", "3"), np.array([[90.0, 91.0, np.nan], [np.nan] * 3]))
    row = reproduce(scores, "base", Published(89.44, 0.45, 15))
    assert (row.measured.n, row.measured.mean) == (2, 90.5)
    assert row.difference == pytest.approx(1.06)
    assert math.isnan(reproduce(scores, "new", Published(1.0)).difference)
