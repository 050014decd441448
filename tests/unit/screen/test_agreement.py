from __future__ import annotations

import csv
import json
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

from normlab.errors import SpecError
from normlab.screen import kendall
from normlab.screen.agreement import shipped

ROOT = Path(__file__).parents[3]
NAMES = "abcdefgh"


def accuracies(*values: float) -> dict[str, dict[int, float]]:
    return {name: {1: value, 2: value + 0.1} for name, value in zip(NAMES, values, strict=False)}


@pytest.mark.parametrize(
    ("values", "tau"),
    [((1, 2, 3, 4), 1), ((4, 3, 2, 1), -1), ((2, 1, 3, 4), 4 / 6), ((1, 1, 2, 3), 5 / (6 * 5) ** 0.5)],
    ids=["same", "opposite", "one-pair-swapped", "ties"],
)
def test_tau_is_kendalls(values, tau):
    found = kendall(dict(zip(NAMES, (1.0, 2.0, 3.0, 4.0), strict=False)), accuracies(*values))
    assert found.tau == pytest.approx(tau)
    assert found.low <= found.tau <= found.high
    assert (found.normalizers, found.seeds) == (4, 2)


def test_the_interval_of_no_relation_holds_zero():
    scores = dict(zip(NAMES, map(float, range(8)), strict=True))
    found = kendall(scores, accuracies(3, 7, 1, 8, 2, 6, 5, 4))
    assert found.low < 0 < found.high


@pytest.mark.parametrize(
    ("scores", "given", "says"),
    [
        ({"a": 1.0, "b": 2.0}, accuracies(1, 2), "the same three or more"),
        ({"a": 1.0, "b": 2.0, "x": 3.0}, accuracies(1, 2, 3), "the same three or more"),
        ({"a": 1.0, "b": 2.0, "c": 3.0}, {**accuracies(1, 2), "c": {1: 3.0}}, "different seeds"),
    ],
)
def test_bad_input(scores, given, says):
    with pytest.raises(SpecError, match=says):
        kendall(scores, given)


def test_the_package_ships_what_was_committed():
    committed = json.loads((ROOT / "results" / "screen" / "tau.json").read_text(encoding="utf-8"))
    assert json.loads((files("normlab.screen") / "agreement.json").read_text(encoding="utf-8")) == committed
    study = tomllib.loads((ROOT / "studies" / "screen.toml").read_text(encoding="utf-8"))
    assert [panel.name for panel in shipped().panels] == study["grid"]["panel"]
    assert [panel.name for panel in shipped().panels if panel.develop] == ["residual"]


def test_the_committed_tau_follows_from_the_committed_tables():
    folder = ROOT / "results" / "screen"
    scores: dict[str, dict[str, float]] = {}
    trained: dict[str, dict[str, dict[int, float]]] = {}
    for row in _rows(folder / "results.csv"):
        by_seed = trained.setdefault(row["panel"], {}).setdefault(row["norm"], {})
        by_seed[int(row["seed"])] = float(row["accuracy"])
    for row in _rows(folder / "scores.csv"):
        scores.setdefault(row["panel"], {})[row["norm"]] = float(row["score"])
    for panel in shipped().panels:
        found = kendall(dict.fromkeys(trained[panel.name], 0.0) | scores[panel.name], trained[panel.name])
        assert found.tau == pytest.approx(panel.tau.tau, abs=0.002)
        assert len(trained[panel.name]) >= 10


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
