"""Rows in files and in experiment trackers."""

from __future__ import annotations

import csv
import json
import math

import pytest
import torch

from normlab import probes as P
from normlab.errors import SpecError
from tests.unit.probes.models import batch, network, train

PROBES = ["stable_rank", "gradient_norm"]


def floats(line):
    return {key: float(value) for key, value in line.items()}


def test_lines_of_json(tmp_path):
    path = tmp_path / "probes.jsonl"
    with P.probe(network(), PROBES, log=path, every=2) as p:
        train(p._plan.model, 3)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows == p.rows
    with P.probe(network(), PROBES, log=str(path)) as q:
        train(q._plan.model, 1)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 2, 0]  # added


def test_json_without_nan(tmp_path):
    path = tmp_path / "probes.jsonl"
    P.JSONLines(path).log({"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.5}, 7)

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    (line,) = path.read_text().splitlines()
    found = json.loads(line, parse_constant=refuse)
    assert found == {"step": 7, "a": "nan", "b": "inf", "c": "-inf", "d": 1.5}
    assert math.isnan(floats(found)["a"])
    assert floats(found)["c"] == -math.inf


def test_lines_of_csv(tmp_path):
    path = tmp_path / "probes.csv"
    with P.probe(network(), PROBES, log=path) as p:
        train(p._plan.model, 2)
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    expected = [
        {"step": str(row["step"]), "key": key, "value": str(value)}
        for row in p.rows for key, value in row.items() if key != "step"
    ]  # fmt: skip
    assert lines == expected
    P.CSV(path).log({"more": 1.0}, 2)
    assert path.read_text().splitlines()[-1] == "2,more,1.0"
    assert path.read_text().count("step,key,value") == 1


def test_a_csv_of_something_else_is_not_written_to(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("seed,accuracy\n1,90\n")
    with pytest.raises(SpecError, match="begins with 'seed,accuracy', not step,key,value"):
        P.CSV(path)
    assert path.read_text() == "seed,accuracy\n1,90\n"


def test_several_loggers_and_ones_own(tmp_path):
    class Own:
        def __init__(self):
            self.seen = []

        def log(self, values, step):
            self.seen.append((step, values))
            values.clear()  # which is a copy

    own = Own()
    with P.probe(network(), PROBES, log=[own, tmp_path / "a.csv", tmp_path / "b.jsonl"]) as p:
        train(p._plan.model, 2)
    assert [step for step, _ in own.seen] == [0, 1]
    assert (tmp_path / "a.csv").exists()
    assert [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()] == p.rows


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer, P.probe(network(), PROBES, log=P.TensorBoard(writer)) as p:
        train(p._plan.model, 3)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["scalars"]) == set(p.last)
    for key in p.last:
        found = [(event.step, event.value) for event in events.Scalars(key)]
        assert [step for step, _ in found] == [0, 1, 2]
        for row, (_, value) in zip(p.rows, found, strict=True):
            assert math.isclose(row[key], value, rel_tol=1e-6)


class Writer:
    def add_scalar(self, tag, value, step):
        pass


class Tracking:
    def log_metrics(self, metrics, step=None):
        pass


@pytest.mark.parametrize(
    ("log", "match"),
    [
        ("probes.txt", "should end in .jsonl or .csv"),
        ("nowhere/probes.csv", "there is no folder nowhere"),
        (Writer(), r"wrap it: normlab.probes.TensorBoard\(writer\)"),
        (Tracking(), r"wrap it: normlab.probes.MLflow\(mlflow\)"),
        (P.CSV, "log takes files and loggers"),
        (7, "log takes files and loggers, got 7, such as 'probes.jsonl'"),
    ],
    ids=str,
)
def test_what_is_no_logger_is_refused_before_training(log, match, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match=match):
        P.probe(network(), PROBES, log=log)


def test_nothing_is_written_where_nothing_is_measured(tmp_path):
    path = tmp_path / "probes.jsonl"
    with pytest.warns(UserWarning, match="measured nothing"), P.probe(network(), PROBES, log=path):
        pass
    assert not path.exists()


def test_values_of_an_incomplete_step_are_logged_at_the_end(tmp_path):
    path = tmp_path / "probes.jsonl"
    model = network()
    with P.probe(model, "stable_rank", log=path), torch.no_grad():
        model(batch()[0])
    assert len(path.read_text().splitlines()) == 1
