"""One comparison: bounds, size, power and seeds of each rule; the table of the notes, done again."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from normlab.study.stats.stopping import SPENDING, Design, EProcess, GroupSequential, log_e_value
from normlab.study.stats.stopping.expected import t_paths

LOOKS = (5, 10, 15)
EACH = tuple(range(2, 16))
STUDIES = 20_000
EFFECTS = (0.0, 0.7, 1.0, 1.5, 2.0, 3.0)
# d_z → probability of rejecting by 15 seeds, mean seeds used; one-sided α = .05 (simulated with scipy 1.17)
TABLE = {
    ("obrien_fleming", LOOKS): [(0.049, 14.9), (0.81, 12.8), (0.98, 11.3), (1, 9.8), (1, 9.3), (1, 7.9)],
    ("pocock", LOOKS): [(0.049, 14.7), (0.73, 11.4), (0.95, 9.1), (1, 6.7), (1, 5.5), (1, 5.0)],
    ("anytime", EACH): [(0.016, 14.9), (0.47, 12.5), (0.81, 10.2), (0.99, 7.3), (1, 6.0), (1, 5.1)],
}
ROUNDING = 0.0051, 0.051  # of the table's numbers


def outcomes(design: Design, effect: float, studies: int = STUDIES) -> tuple[np.ndarray, np.ndarray]:
    """Whether a simulated study rejects, and after how many seeds it stops."""
    x = np.random.default_rng(3).standard_normal((studies, design.looks[-1])) + effect
    crossed = t_paths(x, design.looks) >= design.bounds(design.alpha)
    first = np.where(crossed.any(axis=1), crossed.argmax(axis=1), len(design.looks) - 1)
    return crossed.any(axis=1), np.array(design.looks)[first]


@pytest.mark.parametrize(("rule", "looks"), TABLE)
@pytest.mark.parametrize("column", range(len(EFFECTS)), ids=[f"d{e:g}" for e in EFFECTS])
def test_the_table_of_the_notes(rule, looks, column):
    """Within Monte-Carlo error (of both simulations) and rounding."""
    rejected, seeds = outcomes(Design(rule, looks), EFFECTS[column])
    chance, mean = TABLE[rule, looks][column]
    error = 4 * np.sqrt(max(chance * (1 - chance), 1e-4) / STUDIES)
    assert abs(rejected.mean() - chance) <= error + ROUNDING[0]
    assert abs(seeds.mean() - mean) <= 4 * seeds.std() / np.sqrt(STUDIES) + ROUNDING[1]


@pytest.mark.parametrize(("rule", "bounds"), [("obrien_fleming", (7.95, 2.53, 1.84)), ("pocock", (2.89, 2.37, 2.21))])
def test_bounds_of_the_notes(rule, bounds):
    np.testing.assert_allclose(GroupSequential(rule, LOOKS).bounds(0.05), bounds, rtol=0.007)


@pytest.mark.parametrize("rule", SPENDING)
@pytest.mark.parametrize("looks", [LOOKS, (4, 7, 8), (6,), (2, 3, 4, 5, 6)], ids=str)
@pytest.mark.parametrize("level", [0.05, 0.0125])
def test_the_level_is_spent_as_planned_and_met(rule, looks, level):
    """By other random numbers than those of the bounds, at every look."""
    x = np.random.default_rng(11).standard_normal((60_000, looks[-1]))
    crossed = t_paths(x, looks) >= GroupSequential(rule, looks).bounds(level)
    for k, n in enumerate(looks):
        due = SPENDING[rule](level, n / looks[-1])
        error = 4 * np.sqrt(due / len(x)) + 4 * np.sqrt(due / 400_000)
        assert abs(crossed[:, : k + 1].any(axis=1).mean() - due) <= error


def test_bounds_of_z_would_be_crossed_too_often():
    """Why there are bounds of t: with five pairs those of books are wrong."""
    z = 2.0  # Pocock's for three looks at one-sided .05, about
    crossed = t_paths(np.random.default_rng(4).standard_normal((STUDIES, 15)), LOOKS) >= z
    assert crossed.any(axis=1).mean() > 0.07


@pytest.mark.parametrize("rule", SPENDING)
def test_bounds_are_the_same_every_time_and_fall_as_the_level_rises(rule):
    test = GroupSequential(rule, LOOKS)
    levels = [1e-6, 1e-4, 0.0025, 0.01, 0.05, 0.1, 0.5]
    table = np.array([test.bounds(level) for level in levels])
    assert (np.diff(table, axis=0) < 0).all()
    from normlab.study.stats.stopping import paths, sequential

    paths.null_paths.cache_clear()
    sequential._table.cache_clear()
    np.testing.assert_array_equal([test.bounds(level) for level in levels], table)


@pytest.mark.parametrize("test", [GroupSequential("obrien_fleming", LOOKS), GroupSequential("pocock", LOOKS)], ids=str)
@pytest.mark.parametrize("level", [1e-8, 1e-3, 0.0125, 0.05, 0.3])
def test_p_at_a_bound_is_its_level(test, level):
    found = [float(test.p(k, np.array(bound))) for k, bound in enumerate(test.bounds(level))]
    np.testing.assert_allclose(found, level, rtol=1e-3)


@pytest.mark.parametrize("rule", SPENDING)
def test_a_single_look_is_the_t_test(rule):
    t = np.array([-1.0, 0.2, 1.3, 2.5, 9.0])
    found = GroupSequential(rule, (8,)).p(0, t)
    expected = stats.t.sf(t, 7)
    np.testing.assert_allclose(found, np.where(expected > 0.84, 1, expected), rtol=2e-3)


def test_p_of_any_t_is_a_probability():
    for test in (GroupSequential("pocock", LOOKS), EProcess(EACH)):
        p = test.p(1, np.array([-np.inf, -50, 0, 50, np.inf]))
        assert (p >= 0).all()
        assert (p <= 1).all()
        assert (np.diff(p) <= 0).all()


@pytest.mark.parametrize(("n", "t"), [(2, 3.0), (5, 2.0), (5, -1.0), (15, 4.0), (15, 0.0), (40, 1.5), (3, -6.0)])
@pytest.mark.parametrize("prior", [1.0, 0.25])
def test_e_is_the_integral_of_the_noncentral_density_ratio(n, t, prior):
    def ratio(d: float) -> float:
        half_normal = 2 * stats.norm.pdf(d, scale=np.sqrt(prior))
        return half_normal * stats.nct.pdf(t, n - 1, d * np.sqrt(n)) / stats.t.pdf(t, n - 1)

    expected = integrate.quad(ratio, 0, 12, limit=200)[0]
    assert float(np.exp(log_e_value(n, np.array(t), prior))) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("n", [2, 5, 15])
def test_e_has_mean_one_without_an_effect(n):
    mean = integrate.quad(lambda t: np.exp(log_e_value(n, np.array(t))) * stats.t.pdf(t, n - 1), -np.inf, np.inf)[0]
    assert mean == pytest.approx(1, abs=1e-5)


def test_e_two_sided_is_the_formula_of_the_notes():
    """Half-normal priors above and below zero average to the normal one."""
    n, nu, t = 9, 8, np.linspace(-4, 4, 9)
    both = (np.exp(log_e_value(n, t)) + np.exp(log_e_value(n, -t))) / 2
    expected = (1 + n) ** -0.5 * ((1 + t**2 / nu) / (1 + t**2 / (nu * (1 + n)))) ** ((nu + 1) / 2)
    np.testing.assert_allclose(both, expected)


def test_e_is_valid_for_losses_and_for_ever():
    """A hundred looks; the chance of ever reaching 20 stays below 1 in 20, and a loss makes it smaller."""
    design = Design("anytime", tuple(range(2, 101)))
    none, loss = (outcomes(design, effect, 3000)[0].mean() for effect in (0.0, -0.2))
    assert none <= 0.05
    assert loss <= none
