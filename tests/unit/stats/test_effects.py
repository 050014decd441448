from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from normlab.study.stats import (
    cohen_d_z,
    correlation,
    d_z_interval,
    error_reduction,
    improvement,
    improvement_interval,
    sd_ratio,
)
from normlab.study.stats.special import noncentral_t_cdf
from tests.unit.stats.builders import normal, within_binomial

REPEATS = 1500


@pytest.mark.parametrize("n", [3, 5, 15, 60])
def test_cohen_d_z_is_unbiased(n):
    estimates = [cohen_d_z(d) for d in normal((REPEATS, n), mean=0.7, seed=n)]
    assert np.mean(estimates) == pytest.approx(0.7, abs=4 * np.std(estimates) / math.sqrt(REPEATS))


def test_cohen_d_z_of_a_worked_example():
    d = np.array([1.0, 2.0, 3.0, 4.0, 5.0])  # t = 3 √5 / √2.5, J(4) = Γ(2) / (√2 Γ(1.5))
    assert cohen_d_z(d) == pytest.approx(3 / math.sqrt(2.5) * 0.797884560802865)


@pytest.mark.parametrize(("n", "effect"), [(3, 0.0), (6, 1.0), (15, 0.7), (15, 3.0)])
def test_d_z_interval_covers_as_often_as_it_says(n, effect):
    ends = np.array([d_z_interval(d) for d in normal((REPEATS, n), mean=effect, seed=n)])
    assert within_binomial(((ends[:, 0] <= effect) & (ends[:, 1] >= effect)).sum(), REPEATS, 0.95)


@pytest.mark.parametrize(("n", "mean"), [(2, 0.5), (4, 2.0), (15, 0.0), (15, 0.8), (40, -5.0)])
def test_d_z_interval_inverts_scipys_noncentral_t(n, mean):
    d = normal((n,), mean=mean, seed=n)
    t = scipy.stats.ttest_1samp(d, 0).statistic
    low, high = (end * math.sqrt(n) for end in d_z_interval(d))
    assert scipy.stats.nct.cdf(t, n - 1, low) == pytest.approx(0.975, abs=1e-8)
    assert scipy.stats.nct.cdf(t, n - 1, high) == pytest.approx(0.025, abs=1e-8)


@pytest.mark.parametrize("df", [1, 4, 100, 50_000])
@pytest.mark.parametrize("t", [-2.0, 1.7, 40.0])
def test_noncentral_t_is_defined_where_scipy_has_nan(df, t):
    p = [noncentral_t_cdf(df, centre, t) for centre in np.linspace(-150, 150, 61)]
    assert np.isfinite(p).all()
    assert (np.diff(p) <= 1e-9).all()


def test_d_z_interval_goes_on_where_t_is_huge():
    d = normal((15,))
    low, high = zip(d_z_interval(d + 1000), d_z_interval(d + 1e6), strict=True)
    assert low[1] / low[0] == pytest.approx(1000, rel=1e-3)
    assert high[1] / high[0] == pytest.approx(1000, rel=1e-3)


def coverage_of_improvement(n: int, win: float, tie: float) -> float:
    """Exact, by the trinomial distribution of wins and ties."""
    truth, covered = win + tie / 2, 0.0
    for wins in range(n + 1):
        for ties in range(n + 1 - wins):
            low, high = improvement_interval(np.repeat([1.0, 0.0, -1.0], [wins, ties, n - wins - ties]))
            if low <= truth <= high:
                covered += scipy.stats.multinomial.pmf([wins, ties, n - wins - ties], n, [win, tie, 1 - win - tie])
    return covered


@pytest.mark.parametrize("n", [5, 15])
@pytest.mark.parametrize("tie", [0.0, 0.2, 0.6])
@pytest.mark.parametrize("win", [0.05, 0.2, 0.39, 0.95])
def test_improvement_interval_never_covers_too_rarely(n, win, tie):
    assert coverage_of_improvement(n, win, min(tie, 1 - win)) >= 0.95


@pytest.mark.parametrize(
    ("gains", "share", "interval"),
    [
        ([1, 1, 1, 1, 1], 1.0, (0.4781762, 1.0)),  # 0.025^(1/5)
        ([-1, -1, -1, -1, -1], 0.0, (0.0, 0.5218238)),
        ([1, 1, 1, 0, 0, -1, -1, -1, -1, -1], 0.4, (0.1215523, 0.7376219)),  # 4 of 10
    ],
)
def test_improvement_of_worked_examples(gains, share, interval):
    assert improvement(np.array(gains)) == share
    assert improvement_interval(np.array(gains)) == pytest.approx(interval, abs=1e-7)


@pytest.mark.parametrize(("n", "rho", "ratio"), [(8, 0.0, 1.0), (15, 0.6, 0.3), (15, -0.5, 4.0)])
def test_sd_ratio_interval_covers_and_its_test_has_its_size(n, rho, ratio):
    z = normal((REPEATS, 2, n), seed=n)
    treatment, control = ratio * (rho * z[:, 1] + math.sqrt(1 - rho**2) * z[:, 0]), z[:, 1]
    found = [sd_ratio(a, b) for a, b in zip(treatment, control, strict=True)]
    assert within_binomial(sum(f.interval[0] <= ratio <= f.interval[1] for f in found), REPEATS, 0.95)
    null = [sd_ratio(a / ratio, b).p <= 0.05 for a, b in zip(treatment, control, strict=True)]
    assert within_binomial(sum(null), REPEATS, 0.05)


def test_sd_ratio_p_is_that_of_pitmans_correlation():
    a, b = normal((2, 12), seed=4) * [[0.5], [1.0]]
    found = sd_ratio(a, b)
    assert found.p == pytest.approx(scipy.stats.pearsonr(a + b, a - b).pvalue, rel=1e-9)
    for end in found.interval:  # at either end the scaled samples are just not equally spread
        assert scipy.stats.pearsonr(a + end * b, a - end * b).pvalue == pytest.approx(0.05, rel=1e-6)


@pytest.mark.parametrize(
    ("treatment", "control", "ratio", "interval", "p"),
    [
        ([1.0, 2.0], [1.0, 3.0], 0.5, (0, math.inf), 1.0),
        ([1.0, 1.0, 1.0], [1.0, 1.0, 1.0], 1.0, (0, math.inf), 1.0),
        ([1.0, 2.0, 3.0], [1.0, 1.0, 1.0], math.inf, (0, math.inf), 1.0),
        ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], 0.0, (0, math.inf), 1.0),
        ([2.0, 3.0, 4.0], [1.0, 2.0, 3.0], 1.0, (1, 1), 1.0),
        ([2.0, 4.0, 6.0], [1.0, 2.0, 3.0], 2.0, (2, 2), 0.0),
    ],
    ids=["two-pairs", "both-flat", "control-flat", "treatment-flat", "shifted", "doubled"],
)
def test_sd_ratio_of_degenerate_pairs_is_defined(treatment, control, ratio, interval, p):
    found = sd_ratio(np.array(treatment), np.array(control))
    assert found == (ratio, pytest.approx(interval, abs=1e-6), p)


@pytest.mark.parametrize(
    ("d", "effect", "interval"),
    [
        ([0.0, 0.0, 0.0], 0.0, (-math.inf, math.inf)),
        ([0.5, 0.5], math.inf, (math.inf, math.inf)),
        ([-0.5, -0.5, -0.5], -math.inf, (-math.inf, -math.inf)),
    ],
)
def test_effect_without_spread_is_defined(d, effect, interval):
    assert cohen_d_z(np.array(d)) == effect
    assert d_z_interval(np.array(d)) == interval


@pytest.mark.parametrize(
    ("treatment", "control", "better", "share"),
    [([92.0, 94.0], [90.0, 90.0], "higher", 0.3), ([7.0], [10.0], "lower", 0.3), ([99.0], [100.0], "higher", None)],
)
def test_error_reduction(treatment, control, better, share):
    found = error_reduction(np.array(treatment), np.array(control), better=better)
    assert found is None if share is None else found == pytest.approx(share)


def test_correlation_is_numpys_and_unknown_without_spread():
    a, b = normal((2, 9))
    assert correlation(a, b) == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert math.isnan(correlation(a, np.ones(9)))
