"""`[published]` of a study file: what is refused, and what becomes of it in the report."""

from __future__ import annotations

import pytest

from normlab.errors import SpecError
from normlab.study import Study

FUNCTION = """
def train(arm, streams, context):
    return {"test_accuracy": 80 + arm["gain"] + 2 * arm["lr"] + streams.numpy("noise").normal()}
"""
FILE = """
train = "own.py:train"
baseline = "base"
seeds = 3
[common]
gain = 0.0
[arms]
base = {}
new = { gain = 3.0 }
[grid]
lr = [0.1, 0.01]
[published]
source = "table 1"
seeds = 15
[published.values."lr=0.1"]
base = [80.0, 0.5]
new = [90.0]
[published.values."lr=0.01"]
base = [81.0, 0.5]
"""


@pytest.fixture
def study(tmp_path):
    (tmp_path / "own.py").write_text(FUNCTION)

    def load(*overrides, change=("", "")):
        (tmp_path / "study.toml").write_text(FILE.replace(*change))
        return Study.load(tmp_path / "study.toml", overrides)

    return load


def test_each_panel_has_its_published_numbers(study, tmp_path):
    results = study().run(store=tmp_path / "store", workers=0, progress=False)
    first, second = (panel.published for panel in results.compare().panels)
    assert [(row.measured.arm, row.published.mean) for row in first.rows] == [("base", 80.0), ("new", 90.0)]
    assert [(row.measured.arm, row.published.n) for row in second.rows] == [("base", 15)]
    assert first.rows[1].interval[1] < 0 < first.rows[0].measured.n
    assert (first.changed, first.elsewhere) == ((), ())
    assert "Measured beside published: table 1" in str(results.compare())


def test_what_was_set_otherwise_is_told_beside_published_numbers(study, tmp_path):
    loaded = study("grid.lr=[0.01]", "common.gain=1.0", "seeds=2")
    (panel,) = loaded.run(store=tmp_path / "store", workers=0, progress=False).compare().panels
    assert panel.published.changed == ("common.gain=1.0",)
    assert panel.published.elsewhere == ("lr=0.1",)


def test_a_changed_value_that_is_published_does_not_change_a_run(study):
    assert [run.key for run in study().runs] == [run.key for run in study(change=("[80.0, 0.5]", "[85.0]")).runs]


def test_common_values_are_below_the_arms(study):
    jobs = {run.arm: run.job for run in study("common.extra.depth=2").runs if run.seed == 1}
    assert jobs["base"] == {"gain": 0.0, "extra": {"depth": 2}, "lr": 0.01}
    assert jobs["new"]["gain"] == 3.0


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (("new = [90.0]", "nwe = [90.0]"), "did you mean 'new'"),
        (('"lr=0.01"', '"lr 0.01"'), "should read 'lr=VALUE'"),
        (('"lr=0.01"', '"train.lr=0.01"'), "should read 'lr=VALUE'"),
        (("[80.0, 0.5]", "[80.0, 0.5, 15]"), "should have at most 2 items, not 3"),
        (("[80.0, 0.5]", "[80.0, -0.5]"), "an SD below 0"),
        (("published.values", "published.valus"), "did you mean 'values'"),
        (("[80.0, 0.5]", "80.0"), "a valid list"),
        (("base = {}", "base = 3"), "should be a table"),
        (("lr = [0.1, 0.01]", ""), 'no grid, so "" is the point'),
    ],
    ids=["arm", "point", "key", "three", "negative", "table", "number", "plain-arm", "no-grid"],
)
def test_published_numbers_that_belong_nowhere_are_refused(study, change, text):
    with pytest.raises(SpecError, match=text):
        study(change=change)
