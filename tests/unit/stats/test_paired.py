from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.weightstats import ttost_paired

from normlab.errors import SpecError
from normlab.study.stats import (
    bootstrap_t_interval,
    equivalence,
    paired_differences,
    paired_t,
    signflip_interval,
    signflip_test,
    t_interval,
    wilcoxon,
)
from tests.unit.stats.builders import each_alternative, each_sample, normal, within_binomial


@each_sample
@each_alternative
def test_paired_t_is_scipys(d, alternative):
    expected = scipy.stats.ttest_1samp(d, 0, alternative=alternative)
    assert paired_t(d, alternative) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-9)


def test_decimals_that_tie_on_paper_tie_in_the_test():
    control = np.array([0.1, 0.2, 0.3, 0.7, 10.1, 90.1])
    treatment = np.array([0.4, 0.5, 0.6, 1.0, 10.4, 89.8])
    d = paired_differences(treatment, control)
    assert set(np.abs(d)) == {0.3}
    assert signflip_test(d).p == 7 / 64
    assert wilcoxon(d) == 7 / 64


@each_sample
@each_alternative
def test_wilcoxon_is_scipys(d, alternative):
    d = d[d != 0]
    expected = scipy.stats.wilcoxon(
        d, alternative=alternative, method=scipy.stats.PermutationMethod(n_resamples=np.inf)
    )
    assert wilcoxon(d, alternative) == pytest.approx(expected.pvalue, abs=1e-12)


@each_alternative
def test_wilcoxon_of_very_many_pairs_is_scipys_normal_limit(alternative):
    d = np.round(normal((300,), mean=0.08), 1)
    d = d[d != 0]
    expected = scipy.stats.wilcoxon(d, alternative=alternative, method="asymptotic", correction=True)
    assert wilcoxon(d, alternative) == pytest.approx(expected.pvalue, rel=1e-9)


@pytest.mark.parametrize("margin", [0.2, 1.0, 3.0])
def test_equivalence_is_statsmodels_tost(margin):
    a, b = normal((2, 12), sd=0.5)
    assert equivalence(a - b, margin) == pytest.approx(ttost_paired(a, b, -margin, margin)[0], rel=1e-9)


@pytest.mark.parametrize(
    ("value", "t", "p_signflip", "p_wilcoxon", "p_equivalent"),
    [
        (0.0, (np.nan, np.nan), 1.0, 1.0, 0.0),
        (0.2, (np.inf, 0.0), 0.125, 0.125, 0.0),
        (1.0, (np.inf, 0.0), 0.125, 0.125, 1.0),
    ],
    ids=["zero", "constant-inside", "constant-on-the-margin"],
)
def test_differences_without_spread_have_defined_results(value, t, p_signflip, p_wilcoxon, p_equivalent):
    d = np.full(3, value)
    np.testing.assert_equal(tuple(paired_t(d)), t)
    assert signflip_test(d).p == p_signflip
    assert wilcoxon(d) == p_wilcoxon
    assert equivalence(d, 1.0) == p_equivalent
    assert t_interval(d) == bootstrap_t_interval(d) == pytest.approx((value, value))


@pytest.mark.parametrize(
    "bad",
    [np.array([1.0]), np.array([]), np.array([[1.0, 2.0]]), np.array([1.0, np.nan, 2.0])],
    ids=["one", "none", "matrix", "nan"],
)
@pytest.mark.parametrize(
    "function",
    [paired_t, signflip_test, wilcoxon, t_interval, bootstrap_t_interval, signflip_interval],
    ids=lambda f: f.__name__,
)
def test_too_little_to_test_is_refused(function, bad):
    with pytest.raises(SpecError, match=r"common seeds|drop pairs"):
        function(bad)


@pytest.mark.parametrize("margin", [0, -1.0, np.nan])
def test_a_margin_that_is_not_positive_is_refused(margin):
    with pytest.raises(SpecError, match="margin"):
        equivalence(np.array([0.1, 0.2, 0.3]), margin)


REPEATS = 2000


@pytest.mark.parametrize("n", [6, 15], ids="n={}".format)
@pytest.mark.parametrize(
    "test",
    [lambda d: paired_t(d).p, lambda d: signflip_test(d).p, wilcoxon, lambda d: signflip_test(d, "two-sided").p],
    ids=["t", "signflip", "wilcoxon", "signflip-two-sided"],
)
def test_size_under_the_null_is_the_level(test, n):
    level = 0.0625  # all of 2^-n and 2^(1-n) divide it, so that the exact tests can reach it
    p = np.array([test(d) for d in normal((REPEATS, n), seed=n)])
    attained = p[p <= level].max()  # the next possible p, which for ranks is lower
    assert within_binomial((p <= level).sum(), REPEATS, attained)


@pytest.mark.parametrize("n", [6, 15], ids="n={}".format)
def test_tost_at_the_margin_rejects_at_most_at_the_level(n):
    rejected = sum(equivalence(d, 3.0) <= 0.05 for d in normal((REPEATS, n), mean=3.0, seed=n))
    assert within_binomial(rejected, REPEATS, 0.05)
