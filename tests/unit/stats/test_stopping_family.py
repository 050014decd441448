"""A family of comparisons over looks: Holm at every look, arms dropped, arms that wait, giving up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from normlab.study.stats.family import holm
from normlab.study.stats.stopping import Design, chance, expected, follow, history
from normlab.study.stats.stopping.expected import t_paths
from tests.unit.stats.builders import within_binomial

LOOKS = (5, 10, 15)
DESIGNS = [Design("obrien_fleming", LOOKS), Design("pocock", LOOKS), Design("anytime", tuple(range(2, 16)))]
each_design = pytest.mark.parametrize("design", DESIGNS, ids=lambda d: d.rule)
NAN = np.nan


def families(design: Design, effects: tuple[float, ...], studies: int, base_sd: float = 1.0) -> np.ndarray:
    """[studies, arms, looks] t of arms against one shared baseline, which may be noisier than they are."""
    rng = np.random.default_rng(8)
    scores = rng.standard_normal((studies, len(effects) + 1, design.looks[-1]))
    scores[:, 0] *= base_sd
    gains = scores[:, 1:] - scores[:, :1] + np.array(effects)[:, None]
    return t_paths(gains, design.looks)


@each_design
@pytest.mark.parametrize("alternative", ["greater", "two-sided"])
@pytest.mark.parametrize(
    ("effects", "futility"),
    [((0, 0, 0, 0), 0.0), ((0, 0, 0, 0), 0.1), ((0, 0, 2.5, 4.0), 0.0)],
    ids=["all-null", "all-null-futility", "two-real"],
)
def test_family_wise_error_stays_at_the_level(design, alternative, effects, futility):
    """Correlated arms, a noisier baseline, decided arms dropped: at most 5 % of studies find a null arm better.

    With two real arms the level of Holm's last steps is reached; all null, Bonferroni's first step decides.
    """
    design = replace(design, alternative=alternative, futility=futility)
    t = families(design, effects, 1500, base_sd=2.0)
    null = [k for k, effect in enumerate(effects) if effect == 0]
    found = [[c.outcome for c in follow(study, design)] for study in t]
    wrong = sum(any(study[k] in ("better", "worse")[: 1 + (alternative != "greater")] for k in null) for study in found)
    assert wrong <= 1500 * 0.05 or within_binomial(wrong, 1500, 0.05, 3)


@each_design
def test_decisions_are_holms_on_the_sequential_p(design):
    for study in families(design, (0.0, 1.0, 1.5, 2.0), 60):
        courses = follow(study, design)
        p = np.array([c.p for c in courses])
        np.testing.assert_allclose([c.p_holm for c in courses], holm(p))
        assert [c.outcome == "better" for c in courses] == [bool(x) for x in holm(p) <= design.alpha]


@each_design
def test_one_arm_is_decided_where_it_crosses_its_bound(design):
    for study in families(design, (1.0,), 100):
        (course,) = follow(study, design)
        up, down = study[0] >= design.bounds(0.05), study[0] <= -design.bounds(0.05)
        first = int(np.argmax(up | down)) + 1 if (up | down).any() else None
        assert course.decided == first
        assert course.looks == (first or len(design.looks))
        assert course.outcome == ("open" if first is None else "better" if up[first - 1] else "worse")


@each_design
def test_more_results_never_take_a_decision_back(design):
    """Looks come one by one, arms at different times: what is decided stays decided, and the end is the same."""
    rng = np.random.default_rng(1)
    for study in families(design, (0.0, 1.0, 2.0), 40):
        made = np.zeros(3, dtype=int)
        before = ["open"] * 3
        while (made < len(design.looks)).any():
            made = np.minimum(made + rng.integers(0, 3, 3), len(design.looks))
            seen = np.where(np.arange(len(design.looks)) < made[:, None], study, NAN)
            now = [c.outcome for c in follow(seen, design)]
            assert all(b in ("open", n) for b, n in zip(before, now, strict=True))
            before = now
        assert before == [c.outcome for c in follow(study, design)]


@each_design
def test_history_is_what_was_decided_at_the_time(design):
    for study in families(design, (0.0, 1.0, 2.0), 20):
        for look, courses in enumerate(history(study, design), start=1):
            seen = np.where(np.arange(len(design.looks)) < look, study, NAN)
            assert courses == follow(seen, design)


def test_a_decided_arm_leaves_its_level_to_the_others_also_at_looks_they_had():
    design = Design("pocock", LOOKS)
    weak = float(design.bounds(0.05 / 1)[0]) + 0.01  # enough alone, too little beside another
    first = follow(np.array([[weak, NAN, NAN], [0.0, NAN, NAN]]), design)
    assert [c.outcome for c in first] == ["open", "open"]
    second = follow(np.array([[weak, 0.5, NAN], [0.0, 9.0, NAN]]), design)
    assert [(c.outcome, c.decided) for c in second] == [("better", 2), ("better", 2)]
    assert second[0].level == pytest.approx(0.05)


def test_an_arm_without_its_results_waits_and_the_others_go_on():
    design = Design("obrien_fleming", LOOKS)
    waiting, going = follow(np.array([[NAN, 9.0, 9.0], [1.0, 9.0, 9.0]]), design)
    assert (waiting.outcome, waiting.looks, waiting.p) == ("open", 0, 1.0)
    assert (going.outcome, going.decided) == ("better", 2)
    assert going.p_holm == pytest.approx(2 * going.p)  # the one that waits keeps its place in the family


def test_worse_is_a_question_of_its_own_and_two_sided_asks_both_at_half_the_level():
    t = np.array([[-1.0, -4.0, -5.0]])
    one, two = Design("pocock", LOOKS), Design("pocock", LOOKS, alternative="two-sided")
    assert follow(t, one)[0].outcome == follow(t, two)[0].outcome == "worse"
    assert follow(-t, two)[0].outcome == "better"
    np.testing.assert_allclose(two.bounds(0.05), one.bounds(0.025))


def test_futility_gives_up_what_has_no_chance_and_does_not_bind():
    design = Design("obrien_fleming", LOOKS, futility=0.1)
    t = np.array([[-1.0, 5.0, 9.0]])
    (course,) = follow(t, design)
    assert (course.outcome, course.decided, course.looks) == ("futile", 1, 1)
    assert course.chance is not None
    assert course.chance < 0.1
    (goes_on,) = follow(t, replace(design, futility=0.0))  # going on all the same keeps the level
    assert goes_on.outcome == "better"
    np.testing.assert_array_equal(design.bounds(0.05), replace(design, futility=0.0).bounds(0.05))


@pytest.mark.parametrize("alternative", ["greater", "two-sided"])
def test_chance_is_that_of_simulated_continuations(alternative):
    """Normal scores, any mean, any SD: given t about 1.5 at 5 of 15, how often a later look decides.

    Means are drawn far and wide, which is the prior that the chance is averaged over.
    """
    design, rng = Design("pocock", LOOKS, alternative=alternative), np.random.default_rng(6)
    x = rng.standard_normal((400_000, 15)) + rng.uniform(-8, 8, (400_000, 1))
    first = x[:, :5].mean(1) * np.sqrt(5) / x[:, :5].std(1, ddof=1)
    x = x[np.abs(first - 1.5) < 0.1]
    t = t_paths(x, LOOKS)[:, 1:]
    bounds = design.bounds(0.05)[1:]
    crossed = (t >= bounds) if alternative == "greater" else (np.abs(t) >= bounds)
    assert chance(design, 0, 1.5, 0.05) == pytest.approx(crossed.any(axis=1).mean(), abs=0.03)


def test_chance_rises_with_t_and_with_the_level():
    design = Design("obrien_fleming", LOOKS)
    over_t = [chance(design, 0, t, 0.05) for t in (-3, -1, 0, 1, 3, 8)]
    assert over_t == sorted(over_t)
    assert chance(design, 0, 1.0, 0.01) < chance(design, 0, 1.0, 0.05)


def test_futility_costs_little_power_and_spares_many_seeds():
    plain, futile = (expected(Design("obrien_fleming", LOOKS, futility=f), 1, effects=(0.0, 1.0)) for f in (0, 0.1))
    assert futile[0].seeds < 10 < plain[0].seeds
    assert futile[1].found > plain[1].found - 0.03


def test_expected_seeds_of_several_arms():
    rows = expected(Design("obrien_fleming", LOOKS), 4, effects=(0.0, 2.0), studies=200)
    assert rows[0].found < 0.05
    assert rows[1].found > 0.99
    assert rows[1].seeds <= rows[1].baseline <= 15
    assert rows == expected(Design("obrien_fleming", LOOKS), 4, effects=(0.0, 2.0), studies=200)


def test_a_two_sided_decision_goes_the_way_of_the_look_that_crossed():
    """The largest t may be that of an early look, whose bound it did not reach."""
    design = Design("obrien_fleming", (4, 8, 12), alternative="two-sided")
    (course,) = follow(np.array([[8.16, -1.58, -3.27]]), design)
    assert (course.outcome, course.decided) == ("worse", 3)
