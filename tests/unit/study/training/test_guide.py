"""The study of docs/guide/training.md is one that plans, and its table of options is complete."""

import re
from pathlib import Path

import normlab
from normlab.study import Study
from normlab.study.job import METRICS, TrainSpec

GUIDE = (Path(normlab.__file__).parents[2] / "docs/guide/training.md").read_text(encoding="utf-8")


def test_its_study_can_be_planned(tmp_path):
    (tmp_path / "guide.toml").write_text(re.search(r"```toml\n(.*?)```", GUIDE, re.DOTALL).group(1), encoding="utf-8")
    assert len(Study.load(tmp_path / "guide.toml").runs) == 30


def test_it_names_every_option_and_metric():
    assert [name for name in (*TrainSpec.model_fields, *METRICS) if f"`{name}`" not in GUIDE] == []
