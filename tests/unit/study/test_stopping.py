"""Studies with a stopping rule: what is run, and what is decided."""

from __future__ import annotations

import numpy as np
import pytest

import normlab
from normlab.errors import SpecError
from normlab.study.agenda import LOG, Agenda
from normlab.study.executors.events import Event
from normlab.study.looks import looks_at
from normlab.study.plan import schedule
from normlab.study.run import Outcome
from normlab.study.store import Store
from tests.unit.study.stopping_study import (
    ARMS,
    RULE,
    findings,
    flaky,
    log,
    measure,
    run,
    seeds_run,
    study,
    without_seconds,
    without_time,
)


@pytest.mark.parametrize("rule", ["obrien_fleming", "pocock", "anytime"])
def test_decided_arms_are_dropped_and_the_baseline_goes_on_with_the_others(tmp_path, rule):
    results = run(study(stopping={"rule": rule}), tmp_path)
    count = seeds_run(results)
    assert count["great"] < 12
    assert count["bad"] < 12
    assert count["none"] == count["base"] == 12
    rows = {row.arm: row for row in results.compare().panels[0].comparisons.rows}
    assert {arm: row.verdict for arm, row in rows.items()} == {
        "great": "better", "none": "unresolved", "bad": "worse",
    }  # fmt: skip
    assert len(rows["great"].seeds) == count["great"]
    assert rows["great"].missing == ()


def test_runs_come_by_seed_block(tmp_path):
    order = []

    def noting(arm, streams, context):
        order.append((streams.seed, arm))
        return measure(arm, streams, context)

    noting.__globals__["order"] = order
    results = run(study(noting), tmp_path)
    seeds = [seed for seed, _ in order]
    assert seeds == sorted(seeds)
    assert order[:4] == [(1, arm) for arm in ARMS.values()]
    assert len(order) == len(results.finished)


def test_all_arms_decided_ends_the_study(tmp_path):
    made = study(arms={"base": 0.0, "great": 3.0})
    results = run(made, tmp_path)
    assert seeds_run(results) == {"base": 4, "great": 4}
    status = made.status(tmp_path / "store")
    assert (len(status.finished), len(status.waiting), len(status.needless)) == (8, 0, 16)
    assert results.compare().runs == (8, 24)
    assert results.compare().needless == 16
    assert "8 of 24 runs finished, 16 not needed" in str(results.compare())


@pytest.mark.parametrize("rule", ["pocock", "anytime"])
def test_interrupted_after_any_run_it_takes_the_same_decisions(tmp_path, rule):
    straight = run(study(stopping={"rule": rule}), tmp_path, "straight")
    left = [0]

    def interrupting(arm, streams, context):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return measure(arm, streams, context)

    chance = np.random.default_rng(0)
    made = study(interrupting, name="measure", stopping={"rule": rule})
    for _ in range(100):
        left[0] = int(chance.integers(0, 7))
        try:
            results = run(made, tmp_path, "killed")
            break
        except KeyboardInterrupt:
            continue
    assert seeds_run(results) == seeds_run(straight)
    assert without_seconds(results) == without_seconds(straight)
    killed, whole = (
        [{k: v for k, v in e.items() if k != "results"} for e in without_time(log(tmp_path, name))]
        for name in ("killed", "straight")
    )
    assert killed == whole  # but for the checksums, in which the functions differ


def test_finished_once_it_stays_as_it_is(tmp_path):
    first = run(study(), tmp_path)
    before = (tmp_path / "store" / LOG).read_text()
    again = run(study(), tmp_path)
    assert seeds_run(again) == seeds_run(first)
    assert (tmp_path / "store" / LOG).read_text() == before


@pytest.mark.parametrize(
    ("arm", "waits", "runs"),
    [
        ("great", {"great"}, {"base": 12, "great": 3, "none": 12, "bad": 4}),
        ("base", {"great", "none", "bad"}, {"base": 3, "great": 4, "none": 4, "bad": 4}),
    ],
)
def test_a_run_that_failed_in_a_block_holds_up_its_arm_until_it_is_repeated(tmp_path, arm, waits, runs):
    made = study(flaky(tmp_path, ARMS[arm], 2))
    results = run(made, tmp_path)
    assert seeds_run(results) == runs
    rows = {row.arm: row for row in results.compare().panels[0].comparisons.rows}
    assert {a for a, row in rows.items() if row.verdict == "no data"} == waits
    assert all(set(entry["waiting"]) == waits for entry in log(tmp_path))
    again = run(made, tmp_path)  # it fails once more, and nothing else is run
    assert seeds_run(again) == runs

    (tmp_path / "repaired").touch()
    repaired = run(made, tmp_path)
    straight = run(made, tmp_path, "straight")
    assert seeds_run(repaired) == seeds_run(straight)
    assert without_seconds(repaired) == without_seconds(straight)
    last = {entry["look"]: entry for entry in log(tmp_path)}
    assert last[1]["arms"] == log(tmp_path, "straight")[0]["arms"]
    assert last[1].get("revised", False) == (arm == "great")


def test_a_failed_run_that_is_not_needed_any_more_is_no_failure(tmp_path):
    train = flaky(tmp_path, ARMS["great"], 6)
    fixed = run(study(train, stopping="fixed", name="a"), tmp_path)
    assert len(fixed.failures) == 1
    results = run(study(train, name="a"), tmp_path)  # with a rule after all: "great" is decided by seed 4
    assert not results.failures


def test_diverged_runs_are_results_of_their_look(tmp_path):
    """They are counted by their metrics; one without, as the worst that the two arms had up to the look."""

    def explodes(arm, streams, context):
        if arm == 3.0 and streams.seed in (1, 2):
            raise normlab.Diverged("loss is nan", {"metric": 10.0} if streams.seed == 1 else None, counted_as="chance")
        return measure(arm, streams, context)

    results = run(study(explodes), tmp_path)
    row = results.compare().panels[0].comparisons.rows[0]
    assert row.diverged == ("1", "2")
    assert row.verdict == "unresolved"
    assert len(row.seeds) == 12
    looks = looks_at(results.protocol, results.runs, (), results.finished)
    base = [results.finished[looks.runs["base", i].key].metrics["metric"] for i in range(4)]
    ours = [results.finished[looks.runs["great", i].key].metrics.get("metric") for i in range(4)]
    gains = np.array([10.0, 10.0, *ours[2:]]) - base
    assert looks.courses["great"].t[0] == pytest.approx(gains.mean() * 2 / gains.std(ddof=1))


def test_a_decided_arm_is_reported_by_the_values_that_decided_it(tmp_path):
    """A diverged run without a value counts as the worst of its comparison, not of other arms or of later seeds."""

    def explodes(arm, streams, context):
        if arm == 0.0 and streams.seed == 2:
            raise normlab.Diverged("loss is nan")
        return {"metric": 40.0} if arm == -3.0 and streams.seed == 5 else measure(arm, streams, context)

    row = run(study(explodes), tmp_path).compare().panels[0].comparisons.rows[0]
    assert (row.verdict, len(row.seeds)) == ("better", 4)
    assert row.control[1] == min(*row.treatment, *np.delete(row.control, 1))
    assert row.t == pytest.approx(row.stopped.course.t[-1])
    low, high = row.interval
    assert low < row.delta < high


@pytest.mark.parametrize("futility", [0.0, 0.3])
@pytest.mark.parametrize("gain", [1.0, -1.0])
def test_gains_without_spread_decide_nothing(tmp_path, gain, futility):
    def coarse(arm, streams, context):
        return {"metric": 90.0 + arm + streams.seed % 3}

    results = run(study(coarse, arms={"base": 0.0, "one": gain}, stopping={**RULE, "futility": futility}), tmp_path)
    assert seeds_run(results) == {"base": 12, "one": 12}
    assert results.compare().panels[0].comparisons.rows[0].verdict == "unresolved"
    assert "All differences of 'one' are the same" in findings(results)["no-spread"]
    assert [entry["arms"]["one"]["t"] for entry in log(tmp_path)] == [0, 0, 0]


def test_a_run_that_grid_points_share_keeps_none_of_them_waiting(tmp_path):
    own = {(("size", i),): {"base": {"gain": 0}, "one": {"gain": 1, "size": i}} for i in range(3)}
    made = study(arms={"base": 0.0, "one": 1.0})
    runs = schedule(made.protocol, "f", own)
    begun = Agenda(made.protocol, runs, {}, Store(tmp_path)).begin()
    assert len(begun) == 4 + 3 * 4


def test_anytime_goes_on_with_more_seeds(tmp_path):
    """Appending seeds is what the e-process allows: the looks so far stay, and no warning comes."""
    short = run(study(stopping="anytime", seeds=8), tmp_path)
    assert seeds_run(short)["none"] == 8
    before = log(tmp_path)
    longer = run(study(stopping="anytime", seeds=12), tmp_path)
    assert seeds_run(longer)["none"] == 12
    assert seeds_run(longer)["great"] == seeds_run(short)["great"]
    assert log(tmp_path)[: len(before)] == before
    assert not any("revised" in entry for entry in log(tmp_path))
    assert "rule-changed" not in [f.code for f in longer.compare().panels[0].comparisons.findings]


def test_what_is_not_compared_runs_as_long_as_the_baseline(tmp_path):
    made = study(arms={"base": 0.0, "great": 3.0, "aside": 0.5})
    made.protocol = made.protocol.model_copy(
        update={"family": made.protocol.family.model_copy(update={"arms": ["great"]})}
    )
    assert seeds_run(run(made, tmp_path)) == {"base": 4, "great": 4, "aside": 4}


def test_grid_points_stop_on_their_own(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(
        "def train(arm, streams, context):\n"
        "    own = streams.numpy(str(arm['gain'])).normal()\n"
        "    return {'metric': 90 + arm['gain'] * arm['size'] + streams.numpy('init').normal() + own / 2}\n"
    )
    (tmp_path / "own.toml").write_text(
        'train = "own.py:train"\nmetric = "metric"\nbaseline = "base"\nseeds = 9\n'
        "[arms]\nbase = {gain = 0.0}\nbetter = {gain = 3.0}\n[grid]\nsize = [0.0, 1.0]\n"
        '[stopping]\nrule = "pocock"\nlooks = [5, 9]\n'
    )
    made = normlab.Study.load(tmp_path / "own.toml")
    results = run(made, tmp_path)
    count = {(r.point, r.arm): 0 for r in results.runs}
    for r in results.runs:
        count[r.point, r.arm] += r.key in results.finished
    assert sorted(count.values()) == [5, 5, 9, 9]
    assert {tuple(entry["point"].items()) for entry in log(tmp_path)} == set(results.points)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"stopping": "obf"}, r"unknown value 'obf'.*obrien_fleming"),
        ({"stopping": {"rule": "pocock", "looks": [5, 10]}}, r"\[5, 10\] should end with the number of seeds, 12"),
        ({"stopping": {"rule": "pocock", "looks": [8, 4, 12]}}, "should rise"),
        ({"stopping": {"rule": "pocock", "looks": [1, 12]}}, "greater than or equal to 2"),
        ({"stopping": {"rule": "anytime", "looks": [6, 12]}}, "looks after every seed: leave looks out"),
        ({"stopping": {"rule": "fixed", "looks": [12]}}, "looks at the end only"),
        ({"stopping": {"futility": 0.1}}, "futility has no effect"),
        ({"stopping": {"rule": "pocock", "futility": 0.7}}, "futility: got 0.7"),
        ({"stopping": {"rule": "pocock", "look": [12]}}, "did you mean 'looks'"),
        ({"seeds": 40, "stopping": {"rule": "pocock", "looks": [*range(2, 41)]}}, "20 are the most"),
    ],
)
def test_bad_rules_are_named(changes, part):
    with pytest.raises(SpecError, match=part):
        study(**changes)


def test_few_seeds_have_one_look():
    assert study(seeds=2, stopping="obrien_fleming").protocol.stopping.looks_of(2) == (2,)
    assert study(seeds=15, stopping="obrien_fleming").protocol.stopping.looks_of(15) == (5, 10, 15)


def test_the_next_block_waits_for_the_whole_one_before(tmp_path):
    """Runs end in any order; nothing of the next block is asked for before the last of this one is in."""
    made = study(seeds=8, stopping={"rule": "obrien_fleming", "looks": [4, 8]}, arms={"base": 0.0, "none": 0.0001})
    whole = run(study(seeds=8, stopping="fixed", arms={"base": 0.0, "none": 0.0001}), tmp_path)
    agenda = Agenda(made.protocol, made.plan, {}, made.store(tmp_path / "store"))
    block = agenda.begin()
    assert [(r.seed, r.arm) for r in block] == [(s, a) for s in (1, 2, 3, 4) for a in ("base", "none")]
    ended = [Event("ended", r, Outcome(r, "ok", 0.0)) for r in reversed(block)]
    assert [agenda.after(event) for event in ended[:-1]] == [[]] * 7
    assert {r.seed for r in agenda.after(ended[-1])} == {5, 6, 7, 8}
    assert len(whole.finished) == agenda.total == 16
