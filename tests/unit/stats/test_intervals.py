from __future__ import annotations

import numpy as np
import pytest

from normlab.study.stats import bootstrap_t_interval, signflip_interval, t_interval
from tests.unit.stats.builders import normal, within_binomial


@pytest.mark.parametrize(
    ("interval", "n", "coverage"),
    [
        (t_interval, 5, 0.95),
        (t_interval, 15, 0.95),
        (signflip_interval, 8, 1 - 2 * 6 / 256),
        (signflip_interval, 15, 0.95),
        (signflip_interval, 20, 0.95),
        (bootstrap_t_interval, 10, 0.95),
        (bootstrap_t_interval, 15, 0.95),
    ],
)
def test_intervals_cover_as_often_as_they_say(interval, n, coverage):
    repeats = 2000 if interval is t_interval else 600
    ends = np.array([interval(d) for d in normal((repeats, n), seed=n)])
    covered = ((ends[:, 0] <= 0) & (ends[:, 1] >= 0)).sum()
    assert within_binomial(covered, repeats, coverage)


@pytest.mark.parametrize("n", [2, 3])
def test_bootstrap_t_of_a_handful_is_infinite_and_not_wrong(n):
    assert bootstrap_t_interval(normal((n,))) == (-np.inf, np.inf)


def test_bootstrap_t_is_a_studentised_bootstrap():
    d = np.random.default_rng(5).exponential(size=12)
    drawn = d[np.random.default_rng(0).integers(0, 12, size=(2000, 12))]
    t = np.sort((drawn.mean(1) - d.mean()) / (drawn.std(1, ddof=1) / np.sqrt(12)))
    error = d.std(ddof=1) / np.sqrt(12)
    assert bootstrap_t_interval(d) == pytest.approx((d.mean() - t[1950] * error, d.mean() - t[49] * error))
