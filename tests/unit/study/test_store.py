import json
import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from normlab.errors import SpecError, StoreError, StoreLocked, UnknownName
from normlab.seeding import Streams
from normlab.study.context import CHECKPOINT, Context, Diverged
from normlab.study.environment import device_name
from normlab.study.plan import RunSpec
from normlab.study.run import Options, attempt
from normlab.study.store import RESULT, Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store").open(create=True)


def run_spec(job: object = "a", seed: int = 1) -> RunSpec:
    return RunSpec("arm", (), seed, seed, "f", job)


def good(arm, streams: Streams, context: Context):
    context.log(loss=0.5)
    context.log(loss=float("nan"))
    return {"metric": 0.1 + 0.2, "correct": np.array([True, False, True] * 7)}


def test_a_result_comes_back_exactly(store):
    outcome = attempt(good, run_spec(), store, Options())
    result = store.load(run_spec().key)
    assert outcome.status == "ok"
    assert result is not None
    assert result.metrics == {"metric": 0.1 + 0.2}
    assert result.curves == {"loss": [0.5, None]}
    np.testing.assert_array_equal(result.correctness(), [True, False, True] * 7)
    assert result.environment["torch"] == torch.__version__


@pytest.mark.parametrize("length", [0, 1, 100, -2])
def test_a_result_cut_in_the_middle_is_said_to_be_damaged(store, length):
    attempt(good, run_spec(), store, Options())
    path = store.path / "runs" / run_spec().key / RESULT
    path.write_text(path.read_text()[:length])
    with pytest.raises(StoreError, match="damaged"):
        store.load(run_spec().key)
    kept = store.set_aside(run_spec().key)
    assert store.load(run_spec().key) is None
    assert Path(kept).exists()


@pytest.mark.parametrize("length", [0, 10, 100, 300, -2])
def test_a_checkpoint_cut_in_the_middle_costs_the_time_it_saved(tmp_path, length):
    context = Context(tmp_path, checkpoint_seconds=0)
    context.checkpoint({"x": torch.arange(100.0)}, done=0.5)
    content = (tmp_path / CHECKPOINT).read_bytes()
    (tmp_path / CHECKPOINT).write_bytes(content[:length])
    assert Context(tmp_path).restore() is None


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_devices_without_a_name_of_their_own(device):
    assert device_name(device) == device


@pytest.mark.parametrize(
    "change",
    [{"correct": "zz"}, {"correct": "ff"}, {"metrics": [1]}, {"key": "another"}, {"status": "odd"}, {"new": 1}],
    ids=str,
)
def test_a_result_that_says_something_else_is_damaged(store, change):
    attempt(good, run_spec(), store, Options())
    path = store.path / "runs" / run_spec().key / RESULT
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(StoreError, match="damaged"):
        store.load(run_spec().key)


def test_a_place_that_cannot_be_written_is_named(store):
    (store.path / "runs").mkdir()
    (store.path / "runs" / run_spec().key).write_text("")
    with pytest.raises(StoreError, match=r"cannot write to .*: File exists"):
        attempt(good, run_spec(), store, Options())


def test_a_function_that_raises_leaves_its_traceback_with_the_run(store):
    def bad(arm, streams, context):
        raise ZeroDivisionError("no luck")

    outcome = attempt(bad, run_spec(), store, Options())
    assert (outcome.status, outcome.error) == ("failed", "ZeroDivisionError: no luck")
    assert "in bad" in (store.failure(run_spec().key) or "")
    attempt(good, run_spec(), store, Options())
    assert store.failure(run_spec().key) is None


@pytest.mark.parametrize(
    ("returned", "part"),
    [
        ({"metric": "high"}, "metric is one number"),
        ({"metric": [1.0, 2.0]}, "metric is one number"),
        ({"metric": 1.0, "correct": [1, 0]}, r"`correct` should be \[examples\] bool, got int64 of shape \[2\]"),
        (None, r"returned None \(NoneType\); it should return \{"),
        (3.0, r"returned 3.0 \(float\)"),
        ({"metric": list(range(10**6))}, r"metric=\[0, 1, 2, 3, 4, 5, \.\.\.\] \(list\)"),
    ],
)
def test_what_the_function_returns_is_checked(store, returned, part):
    outcome = attempt(lambda arm, streams, context: returned, run_spec(), store, Options())
    assert outcome.status == "failed"
    import re

    assert re.search(part, outcome.error)


def test_divergence_is_a_result(store):
    def explicit(arm, streams, context):
        raise Diverged("loss is inf in epoch 3", {"metric": 10.0}, counted_as="chance level, 10 %")

    def silent(arm, streams, context):
        return {"metric": float("nan")}

    assert attempt(explicit, run_spec(), store, Options()).status == "diverged"
    assert attempt(silent, run_spec(seed=2), store, Options()).status == "diverged"
    first, second = store.load(run_spec().key), store.load(run_spec(seed=2).key)
    assert first is not None
    assert second is not None
    assert first.metrics == {"metric": 10.0}
    assert first.reason == "loss is inf in epoch 3"
    assert second.metrics == {"metric": None}
    assert second.reason == "metric is nan"


def test_a_checkpoint_brings_back_state_curve_and_time(tmp_path):
    context = Context(tmp_path, checkpoint_seconds=0)
    assert context.restore() is None
    context.log(loss=1.5)
    context.checkpoint({"weight": torch.arange(3), "epoch": 2}, done=0.5)
    again = Context(tmp_path)
    state = again.restore()
    assert state is not None
    assert state["epoch"] == 2
    assert again.rows == [{"loss": 1.5}]
    assert again.elapsed >= context.seconds
    (tmp_path / CHECKPOINT).write_bytes((tmp_path / CHECKPOINT).read_bytes()[:100])
    assert Context(tmp_path).restore() is None


@pytest.mark.parametrize("value", [np.zeros(2), np.float64(1), {"deep": [object()]}], ids=lambda v: type(v).__name__)
def test_a_state_that_could_not_be_restored_is_refused(tmp_path, value):
    with pytest.raises(SpecError, match=r"checkpoint: state\['x'\].* is a "):
        Context(tmp_path, checkpoint_seconds=0).checkpoint({"x": value}, done=0.5)


def test_checkpoints_keep_their_distance(tmp_path):
    context = Context(tmp_path, checkpoint_seconds=3600)
    context.checkpoint({}, done=0.1)
    assert not (tmp_path / CHECKPOINT).exists()


def test_somebody_elses_directory_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(StoreError, match="is no store of runs"):
        Store(tmp_path).open(create=True)


def test_a_store_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="Not a directory"):
        Store(tmp_path / "file" / "store").open(create=True)
    with pytest.raises(StoreError, match="cannot use"):
        Store(Path("/proc/store")).open(create=True)


def test_a_store_without_its_marker_is_still_a_store(store):
    attempt(good, run_spec(), store, Options())
    (store.path / "store.json").unlink()
    assert store.open(create=True).load(run_spec().key) is not None


@pytest.mark.parametrize(("text", "part"), [("{", "damaged"), ('{"format": 99}', "has format 99"), ("[]", "damaged")])
def test_a_half_written_or_foreign_store(store, text, part):
    (store.path / "store.json").write_text(text)
    with pytest.raises(StoreError, match=part):
        store.open(create=False)


def hold(path: Path, held, release) -> None:
    with Store(path).locked():
        held.set()
        release.wait(20)


def test_the_second_one_is_told_who_holds_the_lock(store):
    spawn = multiprocessing.get_context("spawn")
    held, release = spawn.Event(), spawn.Event()
    process = spawn.Process(target=hold, args=(store.path, held, release))
    process.start()
    assert held.wait(20)
    with pytest.raises(StoreLocked, match=f"in use by process {process.pid} on .* since "), store.locked():
        pass
    process.kill()  # not even a chance to clean up
    process.join()
    with store.locked():
        pass


def test_the_store_says_what_it_is_for(store):
    store.describe({"name": "digits"})
    assert json.loads((store.path / "store.json").read_text())["study"]["name"] == "digits"


def test_metric_names_are_not_checked_by_a_run(store):
    assert attempt(lambda *_: {"other": 1}, run_spec(), store, Options()).metrics == ("other",)


def test_errors_cross_processes():
    error = pickle.loads(pickle.dumps(UnknownName("norm", "grup", ["group"], where="arms: ")))
    assert str(error) == "arms: unknown norm 'grup'; did you mean 'group'? Known: group."


def test_spec_error_is_a_value_error():
    assert issubclass(SpecError, ValueError)
