"""The studies of the papers' claims, made small: each writes its report, and goes on where it was interrupted."""

from __future__ import annotations

import csv
import importlib
from pathlib import Path

import pytest

import normlab
from normlab.study.context import Context

CLAIMS = Path(normlab.__file__).parents[2] / "studies" / "claims"
NARROW = ((1, 4, 1), (4, 4, 1), (4, 6, 2), (6, 32, 1))
SMALL = {
    "smoothness": {"SEEDS": 2, "STEPS": 10, "RATES": (0.1,)},
    "drift": {"SEEDS": 2, "EPOCHS": 2},
    "channels": {"SEEDS": 2, "EPOCHS": 2, "ORDERS": 2, "POINTS": 3, "WIDTHS": NARROW},
    "cancellation": {"SEEDS": 2, "SCALES": (1.0, 0.1, 0.05)},
}
ARM = {"smoothness": {"norm": "batch", "lr": 0.1}, "drift": "baseline(input_norm=False)"}


@pytest.fixture
def claim(monkeypatch, tmp_path):
    """A script as a module, with small numbers, which writes to a temporary directory."""
    monkeypatch.syspath_prepend(str(CLAIMS))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.import_module("writing"), "RESULTS", tmp_path)
    run = normlab.Study.run
    monkeypatch.setattr(normlab.Study, "run", lambda self, **_: run(self, workers=0, progress=False))

    def load(name):
        module = importlib.import_module(name)
        for key, value in SMALL[name].items():
            monkeypatch.setattr(module, key, value)
        return module

    return load


@pytest.mark.parametrize("name", SMALL)
def test_one_command_makes_the_report(name, claim, tmp_path):
    claim(name).main()
    report = (tmp_path / name / "report.md").read_text()
    for text in ("**Verdict**", "arXiv:", "95 % CI |", "torch ", "of computing", f"claims/{name}.py"):
        assert text in report
    rows = list(csv.DictReader((tmp_path / name / "results.csv").open()))
    assert {row["seed"] for row in rows} == {"1", "2"}
    figures = list((tmp_path / name).glob("*.svg"))
    assert figures
    assert all(f"]({path.name})" in report and path.stat().st_size < 100_000 for path in figures)


@pytest.mark.parametrize("name", ARM)
def test_an_interrupted_run_ends_in_the_same_numbers(name, claim, tmp_path):
    module, streams = claim(name), normlab.Streams(1)
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = module.train(ARM[name], streams, Context(tmp_path / "whole", checkpoint_seconds=0))

    class Stopped(Context):
        def log(self, **values):
            if self.rows:
                raise KeyboardInterrupt
            super().log(**values)

    with pytest.raises(KeyboardInterrupt):
        module.train(ARM[name], streams, Stopped(tmp_path / "parts", checkpoint_seconds=0))
    assert (tmp_path / "parts" / "checkpoint.pt").exists()
    assert module.train(ARM[name], streams, Context(tmp_path / "parts", checkpoint_seconds=0)) == whole
