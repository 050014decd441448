"""Rows in files and in experiment trackers."""

from __future__ import annotations

import csv
import json
import logging
import math

import pytest
import torch
from torch import nn

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


def test_mlflow(tmp_path):
    mlflow = pytest.importorskip("mlflow")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'runs.db'}")
    mlflow.set_experiment("probes")
    with mlflow.start_run() as run, P.probe(network(), PROBES, log=P.MLflow(mlflow)) as p:
        train(p._plan.model, 3)
    for key in p.last:
        found = [(m.step, m.value) for m in mlflow.MlflowClient().get_metric_history(run.info.run_id, key)]
        assert found == [(row["step"], row[key]) for row in p.rows]


def test_wandb(tmp_path):
    wandb = pytest.importorskip("wandb")
    with wandb.init(mode="offline", dir=tmp_path, settings=wandb.Settings(silent=True)) as run:
        for _ in range(9):
            run.log({"loss": 1.0})  # whose steps are ahead of those that are measured
        with P.probe(network(), PROBES, log=P.WandB(run)) as p:
            train(p._plan.model, 3)
        found = {key: run.summary[key] for key in (*p.last, "norm/step")}
        refused = pytest.raises(SpecError, match=r"wrap it: normlab.probes.WandB\(run\)")
        with refused:
            P.probe(network(), PROBES, log=run)
    assert found == p.last | {"norm/step": 2}


def test_what_trackers_are_told():
    """By the calls that they take, where they are not installed."""
    calls = []

    class Fake:
        def __getattr__(self, name):
            return lambda *args, **kwargs: calls.append((name, args, kwargs))

    for wrap in (P.TensorBoard, P.MLflow, P.WandB):
        wrap(Fake()).log({"norm/bn1/sigma": 0.5}, 7)
    assert calls == [
        ("add_scalar", ("norm/bn1/sigma", 0.5, 7), {}),
        ("log_metrics", ({"norm/bn1/sigma": 0.5},), {"step": 7}),
        ("define_metric", ("norm/*",), {"step_metric": "norm/step"}),
        ("log", ({"norm/bn1/sigma": 0.5, "norm/step": 7},), {}),
    ]


@pytest.mark.parametrize("rank", [0, 1])
def test_of_several_processes_the_first_writes_the_file(rank, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
    own = P.CSV(tmp_path / f"rank{rank}.csv")
    with P.probe(network(), PROBES, log=[tmp_path / "rows.jsonl", own]) as p:
        train(p._plan.model, 1)
    assert (tmp_path / "rows.jsonl").exists() == (rank == 0)
    assert own.path.exists()
    with pytest.raises(SpecError, match=r"should end in \.jsonl"):
        P.probe(network(), PROBES, log="rows.txt")


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
        (logging.getLogger(), "log takes files and loggers"),
        (nn.Linear(1, 1), "log takes files and loggers"),
        (P.CSV, "log takes files and loggers"),
        (7, "log takes files and loggers, got 7, such as 'probes.jsonl'"),
    ],
)
def test_what_is_no_logger_is_refused_before_training(log, match, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match=match):
        P.probe(network(), PROBES, log=log)


@pytest.mark.parametrize("wrap", [P.TensorBoard, P.MLflow, P.WandB])
@pytest.mark.parametrize("held", [5, None, "run"])
def test_writers_without_the_methods_are_refused_when_they_are_wrapped(wrap, held):
    with pytest.raises(SpecError, match=rf"{wrap.__name__} takes an object with .*\(\.\.\.\); got {held!r}"):
        wrap(held)


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
