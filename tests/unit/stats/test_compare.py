from __future__ import annotations

import math
import warnings
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normlab.errors import SpecError, UnknownName
from normlab.study.stats import Comparison, Scores, Settings, compare, paired_t, signflip_test, wilcoxon
from tests.unit.stats.builders import normal, scores

NAN = math.nan
BASE = normal((10,), mean=80.0)
ARMS = {"base": BASE, "up": BASE / 2 + 42 + normal((10,), seed=1), "same": BASE + 0.1 * normal((10,), seed=2)}
CHANCES = ("improvement", "sd_ratio_p", "p_t", "p_signflip", "p_wilcoxon", "p_holm", "p_holm_worse")
quick = settings(derandomize=True, deadline=None, max_examples=25)


def row(arms: dict[str, object], arm: str = "a", given: dict[str, object] | None = None, **how: object) -> Comparison:
    table = compare(scores(arms, **(given or {})), Settings("base", **how))
    return next(r for r in table.rows if r.arm == arm)


def test_a_table_says_everything_about_its_rows():
    found = compare(scores(ARMS, unit="%"), Settings("base", equivalence=0.5), title="digits")
    up, same = found.rows
    assert (found.title, found.family, found.baseline.n) == ("digits", ("up", "same"), 10)
    assert found.baseline.sd == pytest.approx(BASE.std(ddof=1))
    assert (up.verdict, same.verdict) == ("better", "equivalent")
    d = ARMS["up"] - BASE
    assert up.delta == pytest.approx(d.mean())
    np.testing.assert_allclose(up.differences, d)
    assert (up.p_t, up.p_signflip) == pytest.approx((paired_t(d).p, signflip_test(d).p))
    assert up.p_wilcoxon == pytest.approx(wilcoxon(d))
    assert up.p_holm == pytest.approx(min(1, 2 * up.p_signflip))
    assert up.error_reduction == pytest.approx(d.mean() / (100 - BASE.mean()))
    assert up.rho == pytest.approx(np.corrcoef(ARMS["up"], BASE)[0, 1])
    for interval in (up.interval, up.interval_bootstrap_t, up.interval_signflip):
        assert interval[0] < up.delta < interval[1]


FLAT = [1.0, 2.0, 3.0, 4.0]
DEGENERATE = {
    "no-pair": ({"base": [NAN, 1.0], "a": [1.0, NAN]}, "no data"),
    "one-pair": ({"base": [1.0, 2.0], "a": [1.0, NAN]}, "no data"),
    "two-pairs": ({"base": [1.0, 2.0], "a": [3.0, 1.0]}, "unresolved"),
    "two-equal-pairs": ({"base": [1.0, 2.0], "a": [1.0, 2.0]}, "unresolved"),
    "all-zero": ({"base": FLAT, "a": FLAT}, "unresolved"),
    "constant": ({"base": FLAT, "a": [x + 0.1 for x in FLAT]}, "unresolved"),
    "constant-better": ({"base": range(5), "a": [x + 0.1 for x in range(5)]}, "better"),
    "constant-worse": ({"base": range(5), "a": [x - 0.1 for x in range(5)]}, "worse"),
    "flat-arms": ({"base": [1.0] * 5, "a": [2.0] * 5}, "better"),
    "all-values-zero": ({"base": [0.0] * 5, "a": [0.0] * 5}, "unresolved"),
    "huge": ({"base": [1e300, 2e300, 3e300], "a": [2e300, 2.5e300, 3e300]}, "unresolved"),
    "tiny": ({"base": [1e-300, 2e-300, 3e-300], "a": [2e-300, 2.5e-300, 3e-300]}, "unresolved"),
    "many": ({"base": normal((40,)), "a": normal((40,), seed=1) + 5}, "better"),
}


@pytest.mark.parametrize("alternative", ["greater", "two-sided"])
@pytest.mark.parametrize(("arms", "verdict"), DEGENERATE.values(), ids=list(DEGENERATE))
def test_degenerate_scores_have_defined_results(arms, verdict, alternative):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = row({k: list(v) for k, v in arms.items()}, alternative=alternative)
    expected = "unresolved" if alternative == "two-sided" and len(found.seeds) == 5 else verdict  # 2/32 > 0.05
    assert found.verdict == expected
    if verdict != "no data":
        assert all(0 <= getattr(found, name) <= 1 for name in CHANCES)
        nan = {f.name for f in fields(found) if f.name != "rho" and np.isnan(_numbers(getattr(found, f.name))).any()}
        assert not nan


def _numbers(value: object) -> np.ndarray:
    flat = np.ravel(np.array(value, dtype=object))
    return np.array([x for x in flat if isinstance(x, float)], dtype=float)


def test_equal_arms_are_equivalent_where_a_margin_is_set():
    found = row({"base": FLAT, "a": FLAT}, equivalence=0.1)
    assert (found.verdict, found.p_signflip, found.p_t, found.d_z) == ("equivalent", 1.0, 1.0, 0.0)


def test_pairs_without_a_result_are_dropped_and_listed():
    arms = {"base": [1.0, NAN, 3.0, 4.0, 5.0, 6.0], "a": [2.0, 3.0, NAN, NAN, 6.5, 0.0]}
    given = {"failed": frozenset({("a", "s2")}), "diverged": frozenset({("a", "s5")})}
    found = row(arms, given=given)
    assert (found.seeds, found.missing, found.failed, found.diverged) == (
        ("s0", "s4", "s5"),
        ("s1", "s3"),
        ("s2",),
        ("s5",),
    )
    assert found.delta == pytest.approx((1 + 1.5 - 6) / 3)
    assert found.delta_without_diverged == pytest.approx(1.25)


def test_low_can_be_good():
    arms = {"base": BASE, "a": ARMS["up"]}
    high, low = row(arms), row({k: -np.array(v) for k, v in arms.items()}, better="lower")
    assert low.delta == pytest.approx(-high.delta)
    for name in ("verdict", "d_z", "d_z_interval", "improvement", "p_holm", "p_t", "p_wilcoxon", "t", "seeds_needed"):
        assert (
            getattr(low, name) == pytest.approx(getattr(high, name)) if name != "verdict" else low.verdict == "better"
        )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"baseline": "bse"}, "baseline: unknown arm 'bse'; did you mean 'base'"),
        ({"alpha": 0.0}, "alpha 0.0 given; it must lie between 0 and 1, 0.05"),
        ({"alpha": 5}, "alpha 5 given"),
        ({"confidence": 95}, "confidence 95 given"),
        ({"power": 1.0}, "power 1.0 given"),
        ({"equivalence": 0.0}, "margin 0.0 given; it must be positive"),
        ({"equivalence": -1.0}, "margin -1.0 given"),
        ({"family": ("upp",)}, "family: unknown arm 'upp'; did you mean 'up'"),
        ({"family": ("base", "up")}, "holds the baseline 'base'"),
        ({"family": ()}, "name one arm or more"),
        ({"family": ("up", "up")}, "each once"),
        ({"resamples": 10}, "resamples 10 given"),
        ({"alternative": "less"}, "unknown alternative 'less'"),
        ({"better": "high"}, "unknown better 'high'; did you mean 'higher'"),
    ],
)
def test_bad_settings_are_refused_with_value_and_way_out(given, words):
    with pytest.raises(SpecError, match=words) as caught:
        compare(scores(ARMS), Settings(**{"baseline": "base", **given}))
    assert isinstance(caught.value, UnknownName) == ("unknown" in words)


def test_scores_of_another_shape_are_refused():
    with pytest.raises(SpecError, match=r"shape \(2, 3\) given for 1 arms and 3 seeds"):
        compare(Scores("m", ("base",), ("1", "2", "3"), np.zeros((2, 3))), Settings("base"))


def test_a_family_leaves_the_others_out_and_corrects_for_fewer():
    whole, part = (compare(scores(ARMS), Settings("base", family=f)) for f in (None, ("up",)))
    assert [r.arm for r in part.rows] == ["up"]
    assert part.rows[0].p_holm == pytest.approx(whole.rows[0].p_holm / 2)
    assert "outside-family" in {f.code for f in part.findings}


def test_the_baseline_alone_makes_an_empty_table():
    assert compare(scores({"base": BASE}), Settings("base")).rows == ()


@pytest.mark.parametrize(("pairs", "words"), [(16, "exact, over all"), (30, "p is exact"), (40, "19,999 drawn")])
def test_the_table_says_how_p_was_found(pairs, words):
    values = normal((2, pairs))
    assert words in compare(scores({"base": values[0], "a": values[1]}), Settings("base")).notes[0]


samples = st.lists(st.tuples(st.integers(-30, 30), st.integers(-30, 30)), min_size=3, max_size=9)
SCALED = ("delta", "interval", "interval_bootstrap_t", "interval_signflip")
FREE = (
    "d_z",
    "d_z_interval",
    "improvement",
    "sd_ratio",
    "p_t",
    "p_signflip",
    "p_wilcoxon",
    "p_holm",
    "p_holm_worse",
    "seeds_needed",
)


def arms_of(pairs: list[tuple[int, int]], scale: float = 1.0, shift: float = 0.0) -> dict[str, np.ndarray]:
    base, a = (scale * np.array(pairs, dtype=float).T) + shift
    return {"base": base, "a": a}


def assert_same(one: Comparison, other: Comparison, names: tuple[str, ...], factor: float = 1.0) -> None:
    for name in names:
        expected, found = (np.array(getattr(r, name), dtype=float) for r in (one, other))
        np.testing.assert_allclose(found, factor * expected, rtol=1e-6, atol=1e-9, err_msg=name)


@quick
@given(samples, st.sampled_from([0.1, 3.0, 1000.0]), st.sampled_from([0.0, 7.3, -50.0]))
def test_scale_and_shift_change_no_verdict(pairs, scale, shift):
    one, other = row(arms_of(pairs)), row(arms_of(pairs, scale, shift))
    assert one.verdict == other.verdict
    assert_same(one, other, FREE)
    assert_same(one, other, SCALED, factor=scale)


@quick
@given(samples, st.randoms(use_true_random=False))
def test_order_of_seeds_changes_nothing(pairs, random):
    shuffled = pairs.copy()
    random.shuffle(shuffled)
    one, other = row(arms_of(pairs)), row(arms_of(shuffled))
    assert one.verdict == other.verdict
    assert_same(one, other, (*FREE, "delta", "interval", "interval_signflip"))  # a bootstrap draws by place


@quick
@given(samples)
def test_exchanging_the_arms_turns_everything_round(pairs):
    one, other = row(arms_of(pairs)), row(arms_of([(b, a) for a, b in pairs]))
    turned = {"better": "worse", "worse": "better"}
    assert other.verdict == turned.get(one.verdict, one.verdict)
    assert (other.p_holm, other.p_holm_worse) == (one.p_holm_worse, one.p_holm)
    assert other.d_z == pytest.approx(-one.d_z)
    assert other.improvement == pytest.approx(1 - one.improvement)
    for name in ("interval", "interval_signflip", "d_z_interval"):
        low, high = getattr(one, name)
        assert getattr(other, name) == pytest.approx((-high, -low), abs=1e-7)


@quick
@given(samples)
def test_comparisons_do_not_depend_on_each_other_but_through_holm(pairs):
    arms = arms_of(pairs)
    alone, beside = row(arms), row({**arms, "other": arms["base"] + 1})
    changed = {"p_holm", "p_holm_worse", "verdict", "seeds_needed"}
    for field in fields(alone):
        if field.name not in changed:
            np.testing.assert_equal(getattr(beside, field.name), getattr(alone, field.name))


def test_equal_seeds_of_the_bootstraps_give_equal_tables():
    one, two, other = (compare(scores(ARMS), Settings("base", seed=s)).rows[0] for s in (0, 0, 1))
    np.testing.assert_equal(replace(one, treatment=0, control=0), replace(two, treatment=0, control=0))
    assert one.interval_bootstrap_t != other.interval_bootstrap_t
