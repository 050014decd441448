"""`--data-dir`: the commands that read data find it there, and so do their worker processes."""

import json
import os

import pytest
from click.testing import CliRunner

from normlab.cli import main
from normlab.study.data import forget
from tests.unit.study.data import made

STUDY = """
baseline = "base"
seeds = 2
[data]
name = 'folder(path="shapes")'
[model]
name = "resnet8(width=2)"
[train]
epochs = 1
batch_size = 9
lr = 0.02
augment = ["crop(padding=1)", "flip"]
[arms]
base = "baseline"
small = "revisited(scale=0.1)"
"""


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NORMLAB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("NORMLAB_DATA_DIR", raising=False)
    made.write_folder(tmp_path / "data" / "shapes", size=(8, 8))
    (tmp_path / "tiny.toml").write_text(STUDY)
    forget()


def call(*arguments, code=0):
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_study_trains_on_it_and_records_what_it_was(workers, tmp_path):
    call("run", "tiny.toml", "--data-dir", "data", "--workers", workers, "--quiet")
    kept = [json.loads(path.read_text()) for path in (tmp_path / "runs" / "tiny").rglob("result.json")]
    assert len(kept) == 4
    facts = [run["environment"] for run in kept]
    assert {fact["data"] for fact in facts} == {"image files shapes"}
    assert len({fact["data_checksum"] for fact in facts}) == 1
    assert "NORMLAB_DATA_DIR" not in os.environ  # what the command set is gone with it


def test_without_it_the_place_that_was_looked_at_is_told():
    assert "shapes is no folder" in call("run", "tiny.toml", "--quiet", code=2)


def test_a_data_directory_that_does_not_exist_is_refused():
    for command in (["run", "tiny.toml"], ["plan", "tiny.toml"], ["screen", "resnet8", "--data", "digits"]):
        assert "'nowhere' does not exist" in call(*command, "--data-dir", "nowhere", code=2)


def test_screen_and_landscape_take_datasets_with_paths_too():
    data = ["--data", 'folder(path="shapes")', "--data-dir", "data", "--json", "--batch-size", "8"]
    few = ["--norms", "batch,none", "--seeds", "1", "--batches", "1"]
    assert json.loads(call("screen", "resnet8(width=2)", *data, *few).splitlines()[-1])
    options = ["--alone", "--steps", "1", "--only", "slice"]
    assert json.loads(call("landscape", "resnet8(width=2)", *data, *options).splitlines()[-1])
