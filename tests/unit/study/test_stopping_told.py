"""Studies with a stopping rule: what is logged, and what the report says."""

from __future__ import annotations

import json
import re

import pytest

from normlab.errors import StoreError
from normlab.study.agenda import LOG
from normlab.study.report import data, latex, methods
from normlab.study.report.table import tables
from tests.unit.study.stopping_study import RULE, findings, flaky, log, measure, run, seeds_run, study, words


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


def test_a_damaged_log_is_named(tmp_path):
    run(study(), tmp_path)
    (tmp_path / "store" / LOG).write_text('{"look": 1')
    with pytest.raises(StoreError, match=r"decisions.jsonl of .* is damaged .*move it away"):
        study().results(tmp_path / "store")


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
