from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import scipy.stats

from normlab.study.stats import paired_t, signflip_interval, signflip_test
from tests.unit.stats.builders import each_alternative, each_sample, normal


@each_sample
@each_alternative
def test_signflip_is_scipys_permutation_test(d, alternative):
    expected = scipy.stats.permutation_test(
        (d,), np.mean, permutation_type="samples", alternative=alternative, n_resamples=np.inf, vectorized=True
    )
    assert signflip_test(d, alternative).p == pytest.approx(expected.pvalue, abs=1e-12)


@pytest.mark.parametrize("pairs", [17, 24, 32], ids=str)
def test_signflip_counts_every_assignment_of_many_pairs(pairs):
    d = np.ones(pairs)  # p of the sum of signs is binomial
    d[:3] = -1
    expected = scipy.stats.binom.sf(pairs - 4, pairs, 0.5)
    assert signflip_test(d).exact
    assert signflip_test(d).p == pytest.approx(expected, rel=1e-12)


def test_signflip_of_very_many_pairs_is_drawn_and_says_so():
    d = normal((60,), mean=0.25)
    drawn = signflip_test(d, seed=3)
    assert (drawn.exact, drawn.assignments) == (False, 19_999)
    assert drawn == signflip_test(d, seed=3)
    assert drawn.p == pytest.approx(paired_t(d).p, rel=0.25)


@pytest.mark.parametrize(("n", "bounded"), [(5, False), (6, True)])
def test_signflip_interval_is_bounded_from_six_pairs_on(n, bounded):
    d = np.arange(1.0, n + 1)
    assert signflip_interval(d) == ((1.0, n) if bounded else (-np.inf, np.inf))


@pytest.mark.parametrize("n", [7, 12])
def test_signflip_interval_holds_exactly_what_the_test_does_not_reject(n):
    d = normal((n,), seed=n)
    low, high = signflip_interval(d)
    for end, inside in product((low, high), (1, -1)):
        shifted = d - (end + inside * 1e-7 * (1 if end == low else -1))
        assert (signflip_test(shifted, "two-sided").p > 0.05) == (inside == 1)
