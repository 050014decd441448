"""The engine with training functions of one's own; everything in this process unless workers are the point."""

import functools
import os
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path

import numpy as np
import pytest

import normlab
from normlab.errors import SpecError, UnknownName
from normlab.study.executors.local import execute
from normlab.study.run import Options

ARMS = {"base": 0.0, "better": 1.0}


def measure(arm, streams, context):
    return {"metric": 90 + arm + streams.numpy("init").normal(), "other": 1.0}


def study(train=measure, **changes):
    return normlab.Study(**{"arms": ARMS, "train": train, "seeds": 5, **changes})


def run(made, tmp_path, **options):
    return made.run(store=tmp_path / "store", workers=0, progress=False, **options)


def test_arms_of_a_seed_share_their_streams(tmp_path):
    scores = run(study(), tmp_path).scores()
    assert scores.arms == ("base", "better")
    np.testing.assert_allclose(scores.values[1] - scores.values[0], 1.0)
    assert len(set(scores.values[0])) == 5


def test_a_finished_run_is_never_repeated(tmp_path):
    calls = tmp_path / "calls"

    def counting(arm, streams, context):
        with calls.open("a") as file:
            file.write("x")
        return {"metric": arm}

    for seeds, expected in ((3, 6), (3, 6), (5, 10)):
        run(study(counting, seeds=seeds), tmp_path)
        assert len(calls.read_text()) == expected


def test_a_failing_arm_does_not_stop_the_study(tmp_path):
    def sometimes(arm, streams, context):
        if arm == 1.0 and streams.seed in (2, 3):
            raise RuntimeError("out of luck")
        return {"metric": streams.seed + arm}

    results = run(study(sometimes), tmp_path)
    assert len(results.finished) == 8
    assert results.scores().failed == {("better", "2"), ("better", "3")}
    document = results.compare()
    assert [(f.arm, f.seed, f.error) for f in document.failures] == [
        ("better", "2", "RuntimeError: out of luck"),
        ("better", "3", "RuntimeError: out of luck"),
    ]
    assert "in sometimes" in document.failures[0].traceback
    assert document.panels[0].comparisons.rows[0].failed == ("2", "3")


def test_a_diverged_run_counts_and_is_named(tmp_path):
    def explodes(arm, streams, context):
        if arm == 1.0 and streams.seed == 2:
            raise normlab.Diverged("loss is nan", {"metric": 10.0}, counted_as="chance level, 10 %")
        if arm == 1.0 and streams.seed == 3:
            return {"metric": float("inf")}
        return {"metric": 80 + streams.seed}

    results = run(study(explodes), tmp_path)
    scores = results.scores()
    assert scores.diverged == {("better", "2"), ("better", "3")}
    np.testing.assert_array_equal(scores.values[1], [81, 10, np.nan, 84, 85])
    assert scores.diverged_as == "chance level, 10 %; the worst value of the two arms compared"
    row = results.compare().panels[0].comparisons.rows[0]
    assert row.diverged == ("2", "3")
    np.testing.assert_array_equal(row.treatment, [81, 10, 10, 84, 85])


def test_a_metric_that_is_not_returned_stops_at_the_second_run(tmp_path):
    match = r"better, seed 1: .*function returned: unknown metric 'accuracy'. Known: metric, other"
    with pytest.raises(UnknownName, match=match):
        run(study(metric="accuracy"), tmp_path)
    assert len(list((tmp_path / "store" / "runs").iterdir())) == 2


@pytest.mark.parametrize(("arm", "seed"), [("base", 1), ("better", 3)])
def test_a_run_that_lacks_the_metric_has_failed_and_the_study_goes_on(tmp_path, arm, seed, capsys):
    def forgetful(value, streams, context):
        if value == ARMS[arm] and streams.seed == seed and not (tmp_path / "repaired").exists():
            return {"loss": 1.0}
        return measure(value, streams, context)

    made = study(forgetful)
    results = made.run(store=tmp_path / "store", workers=0)
    why = "not among what the training function returned: unknown metric 'metric'. Known: loss."
    assert f"{arm}, seed {seed}: failed {why}" in capsys.readouterr().err
    assert len(results.finished) == 9
    (failure,) = results.compare().failures
    assert (failure.arm, failure.seed) == (arm, str(seed))
    assert "unknown metric 'metric'. Known: loss" in failure.error
    status = made.status(tmp_path / "store")
    assert [(r.arm, r.seed) for r in status.failed] == [(arm, seed)]
    (tmp_path / "repaired").touch()
    assert not run(made, tmp_path).failures


def test_results_of_no_store_are_none_and_make_none(tmp_path):
    assert study().results(tmp_path / "typo").finished == {}
    assert not (tmp_path / "typo").exists()


def test_data_that_changed_between_runs_is_told(tmp_path):
    def reading(arm, streams, context):
        context.facts["data_checksum"] = "old" if streams.seed < 3 else "new"
        return measure(arm, streams, context)

    found = run(study(reading), tmp_path).compare().panels[0].comparisons.findings
    (text,) = [f.text for f in found if f.code == "data-changed"]
    assert "new (6 runs), old (4 runs)" in text
    same = study().run(store=tmp_path / "same", workers=0, progress=False)
    assert "data-changed" not in [f.code for f in same.compare().panels[0].comparisons.findings]


def test_runs_at_chance_level_are_not_taken_for_runs_without_a_seed(tmp_path):
    """A network that has learned nothing gives one class, and with that 10 %, whatever its seed."""

    def loss_alone(arm, streams, context):
        return {"metric": 10.0, "loss": streams.numpy("init").normal()}

    found = {f.code: f for f in run(study(loss_alone), tmp_path).compare().panels[0].comparisons.findings}
    assert "learned nothing yet" in found["one-value"].text
    assert "identical-seeds" not in found

    def unseeded(arm, streams, context):
        return {"metric": 10.0 + arm, "loss": 1.0}

    found = run(study(unseeded), tmp_path / "other").compare().panels[0].comparisons.findings
    assert "identical-seeds" in {f.code for f in found}


def test_runs_of_other_precision_or_kind_of_device_are_told(tmp_path):
    """One hash stands for them where the study leaves both to the device."""

    def on_many(arm, streams, context):
        if streams.seed < 3:
            context.facts.update(precision="bf16", compiled="torch.compile", device="NVIDIA H200")
        return measure(arm, streams, context)

    found = run(study(on_many), tmp_path).compare().panels[0].comparisons.findings
    (text,) = [f.text for f in found if f.code == "arithmetic-changed"]
    assert "fp32 on CPU (6 runs), bf16 compiled on GPU (4 runs)" in text


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"baseline": "bas"}, "unknown arm 'bas'; did you mean 'base'?"),
        ({"seeds": 1}, "at least 2 seeds"),
        ({"arms": {"base": 1}}, "at least one other arm"),
        ({"arms": {}}, "none given"),
        ({"arms": {"a": 1, "b": object()}}, "arms.b: .* is not plain data"),
        ({"arms": {"a": 1, "b": float("nan")}}, "arms.b: nan is not plain data"),
        ({"arms": {"a": 1, 3: 2}}, "arms: 3 is no name"),
        ({"arms": {"a": 1, " ": 2}}, "arms: ' ' is no name"),
        ({"arms": {"a": 1, "b": 1}}, "'a' and 'b' are the same"),
        ({"train": 3}, "should be a function"),
        ({"train": functools.partial(measure)}, "should be a function written with `def`"),
        ({"name": "a b"}, "the name becomes a directory"),
        ({"alpha": 2.0}, "analysis.alpha"),
        ({"better": "hi"}, "unknown value 'hi'"),
    ],
)
def test_bad_arguments_are_named(changes, part):
    with pytest.raises(SpecError, match=part):
        study(**changes)


SOURCE = """
import functools
import math
from dataclasses import dataclass
from types import SimpleNamespace
import numpy
SCALE = {scale}
LR = {keyword}
class Base:
    @property
    def width(self):
        return {inherited}
class Net(Base):
    width = {width}
    @staticmethod
    def of(x):
        return {static}
@dataclass
class Settings:
    depth: int
SETTINGS = Settings({field})
def helper(x):
    return x + {helper}
@functools.lru_cache
def cached():
    return {cached}
def one():
    return {listed}
NETS = {{"one": one}}
POWER = functools.partial(pow, {bound})
WORDS = frozenset(["a", "b", "c", str({member})])
TABLE = numpy.array([{element}.0])
SPACE = SimpleNamespace(depth={space})
@dataclass
class Words:
    known: frozenset = frozenset(["a", "b", "c"])
def logged(function):
    @functools.wraps(function)
    def wrapper(*arguments):
        return function(*arguments) + {wrapper}
    return wrapper
@logged
def inner(x):
    return x
def make(value):
    def train(arm, streams, context, *, lr=LR):
        found = NETS["one"]() + Net.of(0) + cached() + POWER(2) + SETTINGS.depth
        found += len(WORDS) + len(Words().known) + TABLE[0] + SPACE.depth + inner(1)
        return {{"metric": helper(SCALE) + Net.width + value + math.pi + found}}
    return train
train = make({closure})
"""
PLACES = "scale helper closure keyword width inherited static listed cached bound field member element space wrapper"
AS_WRITTEN = dict.fromkeys(PLACES.split(), 1)


@pytest.mark.parametrize("changed", [None, *AS_WRITTEN])
@pytest.mark.parametrize("on_disk", [True, False], ids=["file", "typed-in"])
def test_stale_results_are_not_taken_for_new_ones(tmp_path, changed, on_disk):
    """What the function refers to in its own file is part of the hash, as its own source is."""
    keys = []
    for number, values in enumerate((AS_WRITTEN, {**AS_WRITTEN, changed: 2} if changed else AS_WRITTEN)):
        file = tmp_path / f"script{number}.py"
        text = SOURCE.format(**values)
        if on_disk:
            file.write_text(text)
        module = {"__name__": "__main__"}
        exec(compile(text, str(file), "exec"), module)
        keys.append(study(module["train"]).runs[0].key)
    assert (keys[0] == keys[1]) == (changed is None)


def test_a_functions_hash_does_not_depend_on_the_process(tmp_path):
    """Sets come in another order in every process."""
    (tmp_path / "own.py").write_text(SOURCE.format(**AS_WRITTEN))
    script = "from own import train; from normlab.study.identity import identity; print(identity(train))"
    found = {
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=tmp_path,
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in (1, 2, 3)
    }
    assert len(found) == 1


def test_a_function_may_change_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def wandering(arm, streams, context):
        os.chdir("/")
        return {"metric": arm}

    made = study(wandering, seeds=2)
    made.run(workers=0, progress=False)
    monkeypatch.chdir(tmp_path)
    assert len(made.results().finished) == 4


def test_a_run_resumes_from_its_checkpoint(tmp_path):
    def stepwise(arm, streams, context):
        state = context.restore() or {"step": 0, "total": 0.0}
        for step in range(state["step"], 6):
            state = {"step": step + 1, "total": state["total"] + streams.numpy("noise", step).normal()}
            context.log(total=state["total"])
            context.checkpoint(state, done=(step + 1) / 6)
            if step == 3 and not (tmp_path / "again").exists():
                raise KeyboardInterrupt
        return {"metric": state["total"] + arm}

    made = study(stepwise)
    with pytest.raises(KeyboardInterrupt):
        run(made, tmp_path, checkpoint_seconds=0)
    assert list(made.status(tmp_path / "store").started.values()) == [pytest.approx(1 / 6)]
    (tmp_path / "again").touch()
    resumed = run(made, tmp_path, checkpoint_seconds=0)
    straight = made.run(store=tmp_path / "other", workers=0, progress=False)
    np.testing.assert_array_equal(resumed.scores().values, straight.scores().values)
    key = made.runs[0].key
    assert resumed.finished[key].curves == straight.finished[key].curves


def test_status_tells_the_states_apart(tmp_path):
    made = study()
    assert len(made.status(tmp_path / "store").waiting) == 10
    run(made, tmp_path)
    path = tmp_path / "store" / "runs" / made.runs[0].key / "result.json"
    path.write_text(path.read_text()[:50])
    status = made.status(tmp_path / "store")
    assert (len(status.finished), len(status.damaged), len(status.waiting)) == (9, 1, 0)
    assert len(made.results(tmp_path / "store").failures) == 1
    assert len(run(made, tmp_path).finished) == 10


def die_once(arm, streams, context):
    """The first attempt at one run kills its worker process, as the system does when memory runs out."""
    mark = Path(context.directory) / "tried"
    if arm == 1.0 and streams.seed == 1 and not mark.exists():
        mark.touch()
        os._exit(9)
    return {"metric": streams.seed + arm, "pid": os.getpid()}


def die_always(arm, streams, context):
    if arm == 1.0 and streams.seed == 1:
        os._exit(9)
    return {"metric": streams.seed + arm}


@pytest.mark.parametrize(("train", "failed"), [(die_once, 0), (die_always, 1)])
def test_a_worker_that_dies_costs_at_most_its_own_run(tmp_path, train, failed):
    made = study(train, seeds=2)
    results = made.run(store=tmp_path / "store", workers=2, progress=False)
    assert len(results.finished) == 4 - failed
    assert list(results.failures.values()) == ["its worker process died twice; killed for memory?"] * failed


class Lands:
    """Kills the process that it is sent to, before the run has begun there."""

    def __reduce__(self):
        return os._exit, (9,)


def test_a_worker_that_dies_before_its_run_begins_is_a_failure_of_the_run(tmp_path):
    lands = Lands()

    def train(arm, streams, context):
        return {"metric": arm, "lands": lands is None}

    results = study(train, seeds=2).run(store=tmp_path / "store", workers=1, progress=False)
    assert list(results.failures.values()) == ["its worker process died twice; killed for memory?"] * 4


def test_a_function_that_cannot_travel_is_an_error_that_says_so(tmp_path):
    lock = threading.Lock()

    def holding(arm, streams, context):
        return {"metric": arm + lock.locked()}

    with pytest.raises(SpecError, match=r"cannot be sent to a worker process .*lock"):
        study(holding, seeds=2).run(store=tmp_path / "store", workers=2, progress=False)


def test_sys_exit_is_a_failure_of_its_run(tmp_path):
    def leaving(arm, streams, context):
        raise SystemExit(3)

    assert set(run(study(leaving, seeds=2), tmp_path).failures) == {r.key for r in study(leaving, seeds=2).runs}


def linger(arm, streams, context):
    time.sleep(30)


def test_closing_the_executor_kills_its_workers_at_once(tmp_path):
    made = study(linger, seeds=2)
    store = made.store(tmp_path / "store").open(create=True)
    events = execute(linger, deque(made.runs), store, Options(), workers=2)
    assert [next(events).kind, next(events).kind] == ["started", "started"]
    before = time.monotonic()
    events.close()
    assert time.monotonic() - before < 2
