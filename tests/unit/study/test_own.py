"""Study files whose training function is in a file beside them."""

import re
import sys
from types import ModuleType

import pytest

import normlab
from normlab.errors import SpecError

OWN = """
def train(arm, streams, context):
    return {"score": arm["gain"] * arm.get("size", 1) + streams.numpy("noise").standard_normal()}
"""
OWN_STUDY = """
train = "mine.py:train"
metric = "score"
baseline = "a"
seeds = 3
[arms]
a = { gain = 1 }
b = { gain = 5 }
[grid]
size = [1, 2]
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(OWN)
    (tmp_path / "own.toml").write_text(OWN_STUDY)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path / "own.toml"
    sys.modules.pop("mine", None)


@pytest.mark.parametrize("taken", [False, True], ids=["", "name-taken"])
def test_a_study_file_names_a_training_function_beside_it(own, taken, monkeypatch):
    if taken:  # by a module from elsewhere
        monkeypatch.setitem(sys.modules, "mine", ModuleType("mine"))
        monkeypatch.setattr(sys.modules["mine"], "__file__", "elsewhere/mine.py", raising=False)
    results = normlab.Study.load(own).run(store=own.parent / "store", workers=1, progress=False)
    tables = results.compare().panels
    assert [round(panel.comparisons.rows[0].delta) for panel in tables] == [4, 8]


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("train='mine.py:trian'", "mine.py has no 'trian'; did you mean 'train'?"),
        ("train='mime.py:train'", "there is no file"),
        ("train='mine.py'", "should read package.module:name or file.py:name"),
        ("train='mine.py:__name__'", "should be a function written with `def`"),
        ("arms.a=3", "arms.a should be a table, since [grid] gives every arm its keys"),
        ("grid.size=[]", "'size' should list one value or more, each once"),
        ("model.name='resnet8'", "unknown key 'model'"),
    ],
)
def test_faults_of_a_study_file_with_a_function_of_its_own(own, override, part):
    with pytest.raises(SpecError, match=re.escape(part)):
        normlab.Study.load(own, [override])


def test_workers_call_the_function_as_it_was_when_the_study_began(own):
    """A worker that starts later would import the file as edited meanwhile; its results would bear the old hash."""
    made = normlab.Study.load(own)
    (own.parent / "mine.py").write_text(OWN.replace("streams.numpy", "1000 + streams.numpy"))
    results = made.run(store=own.parent / "store", workers=1, progress=False)
    assert max(abs(r.metrics["score"]) for r in results.finished.values()) < 100
