"""A store behind a URL, and one on a disk that is full."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import normlab
from normlab.errors import SpecError, StoreError, StoreLocked, Unavailable
from normlab.study.context import CHECKPOINT
from normlab.study.run import Options, attempt
from normlab.study.storage import bucket, lock, storage
from normlab.study.storage.folder import Folder
from normlab.study.store import Store

ARMS = {"a": 0.0, "b": 1.0}


def walk(arm, streams, context):
    state = context.restore() or {"step": 0, "x": 0.0}
    (context.directory / "notes.txt").write_text("kept")
    x = state["x"]
    for step in range(state["step"], 5):
        x += streams.numpy("walk", step).normal() + arm
        context.checkpoint({"step": step + 1, "x": x}, done=(step + 1) / 5)
        if arm == 1.0 and step == 2 and state["step"] == 0 and "NORMLAB_TEST_STOPS" in os.environ:
            raise ValueError("stopped")
    return {"metric": x, "correct": np.array([True, False])}


@pytest.fixture
def url(tmp_path: Path) -> str:
    """fsspec's own files by URL: each call goes the way that s3:// goes, and other processes see them."""
    return f"local://{tmp_path}/bucket/study"


@pytest.fixture
def made() -> normlab.Study:
    return normlab.Study(ARMS, train=walk, seeds=2)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_study_behind_a_url_is_that_of_a_directory(made, url, tmp_path, workers, monkeypatch):
    monkeypatch.chdir(tmp_path)
    there = made.run(store=url, workers=workers, progress=False)
    here = made.run(store=tmp_path / "here", workers=0, progress=False)
    assert [there.finished[run.key].metrics for run in made.runs] == [
        here.finished[run.key].metrics for run in made.runs
    ]
    folder = tmp_path / "bucket" / "study" / "runs" / made.runs[0].key
    assert sorted(path.name for path in folder.iterdir()) == ["notes.txt", "result.json"]
    assert len(made.status(url).finished) == 4


def test_a_run_behind_a_url_resumes_from_its_checkpoint(made, url, monkeypatch):
    store = Store(url).open(create=True)
    run = made.runs[1]
    monkeypatch.setenv("NORMLAB_TEST_STOPS", "1")
    assert attempt(walk, run, store, Options(checkpoint_seconds=0)).error == "ValueError: stopped"
    assert store.has_checkpoint(run.key)
    assert store.progress(run.key) == 0.2
    bucket._scratch.cache_clear()  # another machine
    assert attempt(walk, run, store, Options(checkpoint_seconds=0)).status == "ok"
    assert not store.has_checkpoint(run.key)
    assert store.failure(run.key) is None


def test_a_lock_behind_a_url_says_who_holds_it_and_goes_stale(url, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.01)
    store = Store(url)
    with store.locked() as check:
        with pytest.raises(StoreLocked, match=rf"in use by process {os.getpid()} on .* last heard of 0 s ago"):
            Store(url).locked().__enter__()
        check()
    store.files.write(lock.LOCK, json.dumps({"owner": "dead", "token": "theirs", "beat": 0.0}).encode())
    with store.locked() as check:
        check()
    assert lock.LOCK not in store.files.names("")


def test_a_holder_that_gives_signs_of_life_is_alive_whatever_its_clock_says(url, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.01)
    monkeypatch.setattr(lock, "STALE", -1e9)
    store = Store(url)

    def until_the_next_sign(seconds):
        before = store.files.read(lock.LOCK)
        while store.files.read(lock.LOCK) == before:
            pass

    with store.locked(), monkeypatch.context() as patched:
        patched.setattr(lock.time, "sleep", until_the_next_sign)
        with pytest.raises(StoreLocked, match="in use"):
            Store(url).locked().__enter__()


def test_whose_lock_was_taken_is_told_and_leaves_it_to_the_other(url, monkeypatch):
    """It slept for so long that it was taken for dead."""
    monkeypatch.setattr(lock, "BEAT", 0.01)
    store = Store(url)
    theirs = json.dumps({"owner": "somebody", "token": "theirs", "beat": 0.0}).encode()

    def until_told(check):
        while True:  # a sign of life that was under way may overwrite theirs once
            store.files.write(lock.LOCK, theirs)
            check()

    overtaken = pytest.raises(StoreLocked, match="was taken over by somebody, who took this process for dead")
    with store.locked() as check, overtaken:
        until_told(check)
    assert store.files.read(lock.LOCK) == theirs


def test_a_file_that_cannot_be_read_is_not_taken_for_a_damaged_one(made, tmp_path, monkeypatch):
    store = tmp_path / "store"
    made.run(store=store, workers=0, progress=False)

    def slow(self, name):
        raise TimeoutError(110, "Connection timed out")

    with monkeypatch.context() as patched:
        patched.setattr(Folder, "read", lambda self, name: slow(self, name) if "result" in name else b'{"format": 1}')
        with pytest.raises(StoreError, match=r"cannot read .*: Connection timed out"):
            made.run(store=store, workers=0, progress=False)
    assert len(made.status(store).finished) == 4
    assert not list(store.rglob("*.damaged"))


def test_what_a_function_keeps_in_folders_of_its_own_is_kept_behind_a_url(url):
    files = storage(url)
    (files.workspace("runs/k") / "best").mkdir()
    (files.workspace("runs/k") / "best" / CHECKPOINT).write_bytes(b"mine")
    (files.workspace("runs/k") / CHECKPOINT).write_bytes(b"passing")
    files.settle("runs/k", leave=(CHECKPOINT,))
    assert files.read(f"runs/k/best/{CHECKPOINT}") == b"mine"
    assert files.names("runs/k") == ["best"]


def test_somebody_elses_files_behind_a_url_are_left_alone(url, tmp_path):
    (tmp_path / "bucket" / "study").mkdir(parents=True)
    (tmp_path / "bucket" / "study" / "thesis.tex").write_text("")
    with pytest.raises(StoreError, match="is no store of runs"):
        Store(url).open(create=True)


def test_places(tmp_path):
    assert storage(f"file://{tmp_path}") == Folder(tmp_path)
    assert storage("runs/x") == Folder(Path("runs/x"))
    with pytest.raises(SpecError, match="nosuch://x"):
        storage("nosuch://x").names("")
    for missing, package in (("s3://bucket/x", "s3fs"), ("gs://bucket/x", "gcsfs")):
        if find_spec(package) is None:
            with pytest.raises(Unavailable, match=f"pip install {package}"):
                storage(missing).names("")


FULL = """
name = "full"
metric = "metric"
baseline = "a"
seeds = 2
train = "fills.py:train"
[arms]
a = 0
b = 1
"""
FILLS = """
import torch
def train(arm, streams, context):
    state = context.restore() or {"step": 0, "ballast": torch.zeros(0)}
    for step in range(state["step"], 3):
        context.checkpoint({"step": step + 1, "ballast": torch.zeros(arm * 1000 * 1000)}, done=step / 3)
    return {"metric": float(arm)}
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare, to mount a small disk")
def test_a_disk_that_fills_up_ends_in_one_line_and_loses_nothing(tmp_path):
    (tmp_path / "full.toml").write_text(FULL)
    (tmp_path / "fills.py").write_text(FILLS)
    run = f"{sys.executable} -m normlab run full.toml --store disk --quiet --checkpoint-every 0 --workers 1"
    script = (
        f"mkdir disk && mount -t tmpfs -o size=2m none disk && {run} > out.txt 2> err.txt; echo $? > code; "
        "cp -r disk kept; mount -o remount,size=64m none disk && "
        f"{run} > again.txt 2>&1; echo $? > again_code"
    )
    mounted = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    if not (tmp_path / "kept").exists() or not (tmp_path / "code").exists():
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    assert (tmp_path / "code").read_text().strip() == "2", (tmp_path / "err.txt").read_text()
    error = (tmp_path / "err.txt").read_text()
    assert error.count("\n") == 1
    assert "No space left on device; what is finished is kept, and the same command goes on" in error
    kept = list((tmp_path / "kept").glob("runs/*/result.json"))
    assert kept
    assert all(json.loads(path.read_text())["status"] == "ok" for path in kept)
    assert not list((tmp_path / "kept").glob("runs/*/.*.partial"))
    assert (tmp_path / "again_code").read_text().strip() == "0", (tmp_path / "again.txt").read_text()


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(tmp_path, made, monkeypatch):
    store = Store(tmp_path / "store").open(create=True)
    run = made.runs[0]
    monkeypatch.setenv("NORMLAB_TEST_STOPS", "1")
    from normlab.study.storage import folder

    def full(path, content, *, durable=False):
        if path.name == CHECKPOINT and not next(fits):
            raise OSError(28, "No space left on device")
        return write(path, content, durable=durable)

    write, fits = folder.write_atomically, iter([True, False])
    monkeypatch.setattr(folder, "write_atomically", full)
    with pytest.raises(StoreError, match="No space left on device"):
        attempt(walk, run, store, Options(checkpoint_seconds=0))
    assert store.has_checkpoint(run.key)
    assert store.failure(run.key) is None
    monkeypatch.setattr(folder, "write_atomically", write)
    assert attempt(walk, run, store, Options()).status == "ok"
