"""`run`, `plan`, `status`, `report` in this process, on a study of seconds."""

import json

import pytest
from click.testing import CliRunner

from normlab.cli import main
from normlab.study.store import RESULT

STUDY = """
baseline = "base"
seeds = 2
[data]
name = "digits(train=50, validation=50)"
[model]
name = "resnet8(width=2)"
[train]
epochs = 2
batch_size = 25
lr = 0.02
[arms]
base = "baseline"
small = "revisited(scale=0.1)"
"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(STUDY)
    return "tiny.toml"


def call(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.output


def test_plan_of_a_large_study_answers_from_some_of_its_arms_and_says_so(study, monkeypatch):
    assert "from a few steps of 2 of 2 arms; too much if the machine is busy" in call("plan", study)
    monkeypatch.setattr("normlab.study.cost.PATIENCE", 0.0)
    some = call("plan", study, "--set", "train.epochs=100000000")
    assert "from a few steps of 1 of 2 arms" in some
    assert " days a run" in some
    assert "only 1 of 2 networks were set up to see if they can be trained; run sets up all" in some
    grid = call("plan", study, "--set", 'grid."train.lr"=[0.1, 0.2]')
    assert "1 of 4 pairs of arm and grid point" in grid


def test_the_life_of_a_study(study, tmp_path):
    assert "2 arms × 2 seeds: 4 runs, 4 to do" in call("plan", study)
    assert "0 of 4 runs finished, 4 waiting" in call("status", study)
    output = call("run", study, "--workers", "0", "--quiet")
    assert "small" in output
    assert "Report: runs/tiny/report.html" in output
    files = {path.name for path in (tmp_path / "runs" / "tiny").iterdir()}
    assert {"report.html", "report.md", "results.csv", "results.json", "table.tex"} <= files
    assert "4 of 4 runs finished" in call("status", study)
    assert " 0.0 s a run" not in call("plan", study)
    assert "0 to do" in call("plan", study)
    assert json.loads(call("status", study, "--json"))["finished"] == 4
    assert json.loads(call("plan", study, "--json"))["waiting"] == 0
    assert call("report", study, "--out", "out")
    assert (tmp_path / "out" / "report.md").exists()
    assert json.loads(CliRunner().invoke(main, ["report", study, "--json"]).stdout)
    assert "±" in call("report", study, "--style", "paper")


def test_an_arm_that_the_grid_does_not_touch_is_trained_once(study):
    extra = ("--set", "arms.fixed={train={lr=0.03}}", "--set", "grid.'train.lr'=[0.02, 0.05]")
    assert "3 arms × 2 seeds × 2 grid points: 10 runs, 10 to do" in call("plan", study, *extra)
    call("run", study, "--workers", "0", "--quiet", *extra)
    assert "10 of 10 runs finished" in call("status", study, *extra)


def test_a_report_before_the_first_run_says_so_and_is_in_nobodys_way(study, tmp_path):
    assert "there is no store at runs/tiny; `normlab run` makes one" in call("report", study, code=2)
    assert not (tmp_path / "runs").exists()
    call("run", study, "--workers", "0", "--quiet")


def test_a_damaged_result_is_named_and_made_again(study, tmp_path):
    call("run", study, "--workers", "0", "--quiet")
    path = next((tmp_path / "runs" / "tiny" / "runs").glob(f"*/{RESULT}"))
    path.write_text(path.read_text()[:100])
    assert "1 damaged" in call("status", study)
    assert "damaged" in call("report", study, code=1)
    assert "is damaged: set aside, the run is made again" in call("run", study, "--workers", "0")
    assert "4 of 4 runs finished" in call("status", study)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("run", "none.toml"), "cannot read the study file none.toml: No such file or directory"),
        (("run", "tiny.toml", "--set", "train.epoch=1"), "did you mean 'epochs'?"),
        (("run", "tiny.toml", "--set", "epochs"), "should read key.path=value"),
        (("run", "tiny.toml", "--set", "metric=accuracy", "--workers", "0"), "Known: best_epoch, test_accuracy"),
        (("run", "tiny.toml", "--store", "tiny.toml/x"), "cannot use tiny.toml/x as a store"),
        (("run", "tiny.toml", "--store", "."), "is no store of runs"),
        (("run", "tiny.toml", "--workers", "-1"), "Invalid value for '--workers'"),
        (("plan", "tiny.toml", "--set", "data.name=digits(train=55)"), "should be a multiple of 10"),
        (("plan", "tiny.toml", "--set", "data.name=digits(train=2000)"), "leaves no test example"),
        (("status", "tiny.toml", "--set", "baseline=bas"), "unknown arm 'bas'; did you mean 'base'?"),
        (("report", "."), "cannot read the study file"),
        (("rum",), "did you mean 'run'?"),
        ((), "Commands:"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_bad_input_ends_in_one_line(study, arguments, part):
    output = call(*arguments, code=2)
    assert part in output
    assert "Traceback" not in output
