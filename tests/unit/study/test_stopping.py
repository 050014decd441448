"""Studies with a stopping rule: what is run, what is decided, what is told."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest

import normlab
from normlab.errors import SpecError, StoreError
from normlab.study.agenda import LOG, Agenda
from normlab.study.executors.events import Event
from normlab.study.looks import looks_at
from normlab.study.plan import schedule
from normlab.study.report import data, latex, methods
from normlab.study.report.table import tables
from normlab.study.run import Outcome
from normlab.study.store import Store

ARMS = {"base": 0.0, "great": 3.0, "none": 0.0001, "bad": -3.0}
RULE = {"rule": "pocock", "looks": [4, 8, 12]}


def measure(arm, streams, context):
    return {"metric": 90 + arm + streams.numpy("init").normal() + 0.5 * streams.numpy(f"own{arm}").normal()}


def study(train=measure, **changes):
    return normlab.Study(**{"arms": ARMS, "train": train, "seeds": 12, "stopping": RULE, **changes})


def run(made, tmp_path, name="store"):
    return made.run(store=tmp_path / name, workers=0, progress=False)


def log(tmp_path, name="store"):
    path = tmp_path / name / LOG
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def without_time(entries):
    return [{k: v for k, v in entry.items() if k != "time"} for entry in entries]


def words(document):
    return " ".join(str(document).split())


def without_seconds(results):
    return str(replace(results.compare(), seconds=None))


def findings(results):
    return {f.code: f.text for f in results.compare().panels[0].comparisons.findings}


def seeds_run(results):
    return {arm: sum(r.arm == arm and r.key in results.finished for r in results.runs) for arm in results.arms}


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


def test_the_log_says_what_each_look_saw_and_decided(tmp_path):
    run(study(), tmp_path)
    entries = log(tmp_path)
    assert [entry["look"] for entry in entries] == [1, 2, 3]
    first = entries[0]
    assert first["seeds"] == [1, 2, 3, 4]
    assert {arm: found["decision"] for arm, found in first["arms"].items()} == {
        "great": "better", "none": "go on", "bad": "worse",
    }  # fmt: skip
    assert first["arms"]["great"]["t"] > first["arms"]["great"]["bound"]
    assert first["rule"]["looks"] == [4, 8, 12]
    assert list(entries[1]["arms"]) == ["none"]
    assert len({entry["results"] for entry in entries}) == 3


def flaky(tmp_path, arm_fails, seed_fails):
    """Raises at one run until the file `repaired` is there."""

    def train(arm, streams, context):
        if arm == arm_fails and streams.seed == seed_fails and not (tmp_path / "repaired").exists():
            raise RuntimeError("out of memory")
        return measure(arm, streams, context)

    return train


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


def test_an_arm_that_was_given_up_though_few_seeds_are_named_is_told(tmp_path):
    def poor(arm, streams, context):
        return {"metric": 90.0 + streams.seed + arm * (0.3 + 1.4 * (streams.seed % 2))}

    results = run(study(poor, arms={"base": 0.0, "poor": -1.0}, stopping={**RULE, "futility": 0.2}), tmp_path)
    row = results.compare().panels[0].comparisons.rows[0]
    assert row.stopped.course.outcome == "futile"
    assert row.seeds_needed <= 12
    assert "'poor' was given up at look 1, its chance to be found better" in findings(results)["given-up"]
    assert "for the worse" in findings(results)["given-up"]


@pytest.mark.parametrize(("fails", "made"), [(2, 0), (5, 1)])
def test_looks_to_come_are_counted_per_arm(tmp_path, fails, made):
    train, arms = flaky(tmp_path, 0.0002, fails), {"base": 0.0, "none": 0.0001, "str": 0.0002}
    results = run(study(train, arms=arms), tmp_path)
    assert f"Of 3 looks so many have been made: {made} of str." in findings(results)["looks-to-come"]


def test_the_title_counts_the_seeds_that_were_run(tmp_path):
    both = run(study(arms={"base": 0.0, "great": 3.0}), tmp_path)
    assert "4 of 12 paired seeds" in words(both.compare())
    assert "4–12 of 12 paired seeds" in words(run(study(), tmp_path).compare())


def test_the_chance_of_a_look_that_decided_is_not_that_of_the_look_before(tmp_path):
    run(study(arms={"base": 0.0, "some": 0.6}, stopping={**RULE, "futility": 0.001}), tmp_path)
    chances = [entry["arms"]["some"]["chance"] for entry in log(tmp_path)]
    assert len(chances) > 1
    assert None not in chances[:-1]
    assert chances[-1] is None


def test_the_look_that_was_made_by_another_rule_is_the_last_of_them(tmp_path):
    run(study(), tmp_path)
    other = {"rule": "pocock", "looks": [4, 8, 10, 12]}
    changed = findings(run(study(stopping=other), tmp_path))["rule-changed"]
    assert re.match(r"Look 3 of \S+ was made by another stopping rule \(looks was \[4, 8, 12\], is \[4, 8, 10", changed)
    back = findings(run(study(), tmp_path))["rule-changed"]
    assert re.match(
        r"Look 4 of \S+ was made by another stopping rule \(looks was \[4, 8, 10, 12\], is \[4, 8, 12", back
    )


def test_arms_that_come_or_go_after_a_look_change_the_rule(tmp_path):
    """Whether or not the study names its family: Holm's level depends on how many there are."""
    run(study(), tmp_path)
    fewer = run(study(arms={"base": 0.0, "great": 3.0}), tmp_path)
    assert "(family was ['great', 'none', 'bad'], is ['great'])" in findings(fewer)["rule-changed"]


def test_a_run_that_grid_points_share_keeps_none_of_them_waiting(tmp_path):
    own = {(("size", i),): {"base": {"gain": 0}, "one": {"gain": 1, "size": i}} for i in range(3)}
    made = study(arms={"base": 0.0, "one": 1.0})
    runs = schedule(made.protocol, "f", own)
    begun = Agenda(made.protocol, runs, {}, Store(tmp_path)).begin()
    assert len(begun) == 4 + 3 * 4


def test_the_table_of_a_paper_says_what_stopped_and_bolds_by_the_looks(tmp_path):
    document = run(study(), tmp_path).compare()
    (table,) = tables(document, "paper")
    rows = {row.cells[0].text: row for row in table.rows}
    assert rows["great"].note.replace("\xa0", " ") == "4 seeds, stopped at look 1"
    assert {name for name, row in rows.items() if row.cells[1].strong} == {"great"}
    assert "Pocock bounds for t" in table.footer[0]
    assert "paired t-test" not in table.footer[0]
    assert ".." not in latex.text(document)


def test_nobody_peeks_between_looks(tmp_path):
    """A report in the middle of a block shows what the last look saw, though more is there."""
    left = [4 * 4 + 3]

    def stops(arm, streams, context):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return measure(arm, streams, context)

    made = study(stops)
    with pytest.raises(KeyboardInterrupt):
        run(made, tmp_path)
    results = made.results(tmp_path / "store")
    assert len(results.finished) == 19
    c = results.compare().panels[0].comparisons
    assert {row.arm: len(row.seeds) for row in c.rows} == {"great": 4, "none": 4, "bad": 4}
    assert "looks-to-come" in [f.code for f in c.findings]
    assert next(row for row in c.rows if row.arm == "none").stopped.method == "repeated"


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


@pytest.mark.parametrize(
    "changes",
    [
        {"seeds": 15, "stopping": {"rule": "pocock", "looks": [4, 8, 15]}},
        {"alpha": 0.1},
        {"stopping": "fixed"},
        {"stopping": "anytime"},
        {"seeds": [2, 1, *range(3, 13)]},
    ],
    ids=["looks", "alpha", "fixed", "anytime", "seeds"],
)
def test_a_rule_changed_after_a_look_is_told(tmp_path, changes):
    run(study(), tmp_path)
    findings = run(study(**changes), tmp_path).compare().panels[0].comparisons.findings
    assert "rule-changed" in [f.code for f in findings]


def test_futility_may_be_changed_at_any_time(tmp_path):
    arms = {"base": 0.0, "poor": -0.4}
    given_up = run(study(arms=arms, stopping={**RULE, "futility": 0.2}), tmp_path)
    assert seeds_run(given_up)["poor"] < 12
    row = given_up.compare().panels[0].comparisons.rows[0]
    assert row.verdict == "unresolved"
    assert "given up at look" in words(given_up.compare())
    goes_on = run(study(arms=arms), tmp_path)
    assert "rule-changed" not in [f.code for f in goes_on.compare().panels[0].comparisons.findings]


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


def test_a_damaged_log_is_named(tmp_path):
    run(study(), tmp_path)
    (tmp_path / "store" / LOG).write_text('{"look": 1')
    with pytest.raises(StoreError, match=r"decisions.jsonl of .* is damaged .*move it away"):
        study().results(tmp_path / "store")


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


def test_methods_and_table_say_how_it_was_stopped(tmp_path):
    document = run(study(stopping={**RULE, "futility": 0.05}), tmp_path).compare()
    assert "better (stopped at look 1)" in words(document)
    assert "Pocock bounds for t at 4, 8 and 12 seeds, Holm at every look" in words(document)
    paragraph = methods.paragraph(document)
    assert "after 4, 8 and 12 seeds by a group-sequential paired t-test" in paragraph
    assert "given up; the bounds do not rely on that" in paragraph
    assert "missing" not in paragraph
    content = json.loads(data.as_json(document))
    assert content["panels"][0]["design"]["looks"] == [4, 8, 12]
    assert content["panels"][0]["rows"][0]["stopped"]["course"]["outcome"] == "better"
    assert "unused" in data.as_csv(document)
