from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from normlab.study.stats import Settings, holm, seeds_needed
from normlab.study.stats.family import judge
from tests.unit.stats.builders import normal, within_binomial

UP = np.arange(1.0, 9)  # 8 positive differences: p = 2^-8
NOISE = np.array([0.5, -0.6, 0.1, 0.3, -0.2, 0.4, -0.5, 0.2])
TINY = NOISE / 100


@pytest.mark.parametrize("seed", range(5))
def test_holm_is_statsmodels(seed):
    p = np.random.default_rng(seed).uniform(size=7) ** 2
    p[1] = p[4]
    np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1])


@pytest.mark.parametrize(
    ("p", "adjusted"), [([], []), ([0.3], [0.3]), ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]), ([0.9, 0.8], [1, 1])]
)
def test_holm_of_worked_examples(p, adjusted):
    np.testing.assert_allclose(holm(p), adjusted)


@pytest.mark.parametrize(
    ("gains", "given", "verdicts"),
    [
        ([UP], {}, ["better"]),
        ([-UP], {}, ["worse"]),
        ([UP, -UP, NOISE], {}, ["better", "worse", "unresolved"]),
        ([UP, -UP, NOISE], {"alternative": "two-sided"}, ["better", "worse", "unresolved"]),
        ([UP] + [NOISE] * 13, {}, ["unresolved"] * 14),  # 14 / 256 > 0.05
        ([UP, TINY, NOISE], {"equivalence": 0.1}, ["better", "equivalent", "unresolved"]),
        ([np.zeros(4)], {}, ["unresolved"]),
        ([np.zeros(4)], {"equivalence": 0.1}, ["equivalent"]),
        ([np.array([1.0]), np.array([]), UP], {}, ["no data", "no data", "better"]),
        ([UP[:4]], {}, ["unresolved"]),  # 1/16 cannot reach 0.05
        ([UP + 3], {"equivalence": 100.0}, ["better"]),  # both hold: better says more
    ],
)
def test_verdicts(gains, given, verdicts):
    assert [j.verdict for j in judge(gains, Settings("base", **given))] == verdicts


def test_planned_comparisons_without_data_still_count():
    alone, *_ = judge([UP], Settings("base"))
    with_gap, *_ = judge([UP, np.array([])], Settings("base"))
    assert with_gap.p_holm == 2 * alone.p_holm


def test_seeds_to_resolve_face_the_level_of_holms_next_step():
    settings = Settings("base")
    judged = judge([UP, NOISE + 0.1, NOISE - 0.1], settings)
    d_z = abs((NOISE + 0.1).mean() / (NOISE + 0.1).std(ddof=1)) * 0.8881  # Hedges' factor for 7 degrees of freedom
    assert judged[0].seeds_needed is None
    assert judged[1].seeds_needed == pytest.approx(seeds_needed(d_z, alpha=0.05 / 2), abs=1)


@pytest.mark.parametrize(("gains", "needed"), [(UP[:4], 6), (np.full(2, 0.3), 5), (np.zeros(6), None)])
def test_seeds_to_resolve_are_more_than_there_are(gains, needed):
    assert judge([gains], Settings("base"))[0].seeds_needed == needed


@pytest.mark.parametrize("alternative", ["greater", "two-sided"])
def test_family_wise_error_stays_at_the_level(alternative):
    """Four arms against one noisier control, nothing true: a shared control correlates the comparisons."""
    settings = replace(Settings("base"), alternative=alternative)
    draws = normal((800, 5, 10), seed=1) * np.array([2, 1, 1, 1, 1])[None, :, None]
    false = sum(any(j.verdict == "better" for j in judge(list(x[1:] - x[0]), settings)) for x in draws)
    assert false <= 800 * 0.05 or within_binomial(false, 800, 0.05)
