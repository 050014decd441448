from __future__ import annotations

import math

import numpy as np
import pytest
from statsmodels.stats.power import TTestPower

from normlab.errors import SpecError
from normlab.study.stats import (
    detectable_effect,
    fewest_seeds,
    paired_t,
    power,
    power_curve,
    sd_of_difference,
    seeds_needed,
)
from tests.unit.stats.builders import normal, within_binomial

STATSMODELS = {"greater": "larger", "two-sided": "two-sided"}
sides = pytest.mark.parametrize("alternative", STATSMODELS)


@sides
@pytest.mark.parametrize("alpha", [0.05, 0.0125])
@pytest.mark.parametrize("d_z", [0.0, 0.2, 0.7, 1.2])
@pytest.mark.parametrize("seeds", [2, 5, 15, 25])
def test_power_is_statsmodels(seeds, d_z, alpha, alternative):
    expected = TTestPower().power(d_z, seeds, alpha, alternative=STATSMODELS[alternative])
    assert power(seeds, d_z, alpha=alpha, alternative=alternative) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(("d_z", "seeds"), [(0.5, 27), (0.7, 15), (1.0, 8), (2.0, 4), (0.02, 15458)])
def test_seeds_needed_one_sided(d_z, seeds):
    assert seeds_needed(d_z, exact=False) == seeds
    assert power(seeds, d_z) >= 0.8 > power(seeds - 1, d_z)


@pytest.mark.parametrize(
    ("d_z", "given", "seeds"),
    [
        (2.0, {}, 5),
        (1e9, {}, 5),
        (2.0, {"alternative": "two-sided"}, 6),
        (0.0, {}, None),
        (1e-4, {}, None),
        (-1.0, {}, None),
    ],
)
def test_seeds_needed_keeps_to_what_the_exact_test_can(d_z, given, seeds):
    assert seeds_needed(d_z, **given) == seeds


@pytest.mark.parametrize(("alternative", "d_z"), [("greater", 0.675), ("two-sided", 0.778)])
def test_detectable_effect_of_fifteen_seeds(alternative, d_z):
    found = detectable_effect(15, alternative=alternative)
    assert found == pytest.approx(d_z, abs=5e-4)
    assert power(15, found, alternative=alternative) == pytest.approx(0.8, abs=1e-9)


def test_power_is_the_share_of_rejections():
    rejected = sum(paired_t(d).p <= 0.05 for d in normal((2000, 8), mean=1.0, seed=8))
    assert within_binomial(rejected, 2000, power(8, 1.0))


def test_power_curve_rises():
    curve = power_curve(0.6, range(2, 60))
    assert curve.shape == (58,)
    assert (curve[:3] == 0).all()  # below 5 seeds the exact test cannot reach .05
    assert (np.diff(curve[3:]) > 0).all()
    assert curve[3] == pytest.approx(0.7257469**5)  # all five differences positive, Φ(0.6) each


@pytest.mark.parametrize(
    ("alpha", "alternative", "seeds"),
    [
        (0.05, "greater", 5),
        (0.05, "two-sided", 6),
        (0.03125, "greater", 5),
        (0.03, "greater", 6),
        (0.05 / 21, "greater", 9),
        (0.9, "greater", 2),
    ],
)
def test_fewest_seeds_reach_the_level(alpha, alternative, seeds):
    assert fewest_seeds(alpha, alternative) == seeds


@pytest.mark.parametrize(("sd", "rho", "expected"), [(1.0, 0.0, math.sqrt(2)), (0.5, 0.5, 0.5), (1.0, -1.0, 2.0)])
def test_sd_of_difference(sd, rho, expected):
    assert sd_of_difference(sd, rho) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: power(1, 0.5), "two or more"),
        (lambda: power(5, 0.5, alpha=1.5), "alpha 1.5 given"),
        (lambda: seeds_needed(0.5, target=0), "power 0 given"),
        (lambda: detectable_effect(5, target=0.04), "not above alpha"),
        (lambda: fewest_seeds(0), "alpha 0 given"),
        (lambda: sd_of_difference(0), "sd 0 given"),
        (lambda: sd_of_difference(1, 1), "rho 1 given"),
    ],
)
def test_bad_values_are_refused_by_name(call, words):
    with pytest.raises(SpecError, match=words):
        call()
