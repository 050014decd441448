"""`plan` and `status` of a study with a stopping rule."""

import json

import pytest
from click.testing import CliRunner

from normlab.cli import main

STUDY = """
train = "own.py:train"
metric = "metric"
baseline = "base"
seeds = 12
[arms]
base = 0.0
better = 3.0
[stopping]
rule = "{rule}"
futility = 0.1
"""
OWN = """
def train(arm, streams, context):
    return {"metric": 90 + arm + streams.numpy("init").normal() + streams.numpy(str(arm)).normal() / 2}
"""


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    for rule in ("obrien_fleming", "anytime"):
        (tmp_path / f"{rule}.toml").write_text(STUDY.format(rule=rule))

    def invoke(*arguments):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output
        return result.stdout

    return invoke


def test_plan_tells_expected_seeds_and_cost(call):
    output = call("plan", "obrien_fleming.toml")
    assert "24 runs, 24 to do" in output
    assert "stopping: O'Brien–Fleming bounds for t at 4, 8 and 12 seeds, Holm at every look, given up below" in output
    assert "bounds of t at Holm's first step: " in output
    lines = [line.split() for line in output.splitlines() if line.startswith("  ") and "%" in line]
    assert [line[0] for line in lines] == ["0", "0.7", "1", "1.5", "2", "3"]
    seeds = {line[0]: float(line[2]) for line in lines}
    assert seeds["0"] < 10 > seeds["3"]
    assert lines[0][-1] == "unknown"  # a training function of one's own has not run yet
    call("run", "obrien_fleming.toml", "--workers", "0", "--quiet")
    found = json.loads(call("plan", "obrien_fleming.toml", "--json"))
    assert found["waiting"] == 0
    assert found["forecasts"][0]["seconds"] is not None
    assert len(found["bounds"]) == 3


def test_plan_of_anytime_says_where_no_t_is_enough(call):
    output = call("plan", "anytime.toml")
    assert "bounds of t at Holm's first step: none, none, 15.00, 5.11" in output
    assert "anytime-valid t (e-process, a look after every seed)" in output


def test_status_counts_what_is_not_needed(call):
    call("run", "obrien_fleming.toml", "--workers", "0", "--quiet")
    assert "16 of 24 runs finished, 8 not needed" in call("status", "obrien_fleming.toml")
    assert json.loads(call("status", "obrien_fleming.toml", "--json"))["not needed"] == 8
    assert "better (stopped at look 2)" in " ".join(call("report", "obrien_fleming.toml").split())


def test_a_report_of_no_store_is_an_error_and_makes_none(call, tmp_path):
    result = CliRunner().invoke(main, ["report", "anytime.toml", "--store", "typo"])
    assert result.exit_code == 2
    assert "there is no store at typo" in result.output
    assert not (tmp_path / "typo").exists()


def test_the_paper_style_in_the_terminal_says_what_stopped(call):
    output = call("run", "obrien_fleming.toml", "--workers", "0", "--quiet", "--style", "paper")
    assert "8 seeds, stopped at look 2" in output
    assert "8 of 12 paired seeds" in output
