"""The engine as a user meets it: real processes, killed and interrupted. Waiting is on what they do, not on clocks."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.commands import started

STUDY = """
baseline = "base"
seeds = 2
[data]
name = "digits(train=100, validation=100)"
[model]
name = "resnet8(width=4)"
[train]
epochs = {epochs}
batch_size = 20
lr = 0.02
[arms]
base = "baseline"
small = "revisited(scale=0.1)"
"""


def start(directory: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "normlab", "run", "tiny.toml", "--checkpoint-every", "0.05", *arguments]
    return started(command, directory)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        if process.poll() is not None:
            assert process.stdout is not None
            pytest.fail(f"ended early: {process.stdout.read()}")
        try:
            process.wait(timeout=0.01)
        except subprocess.TimeoutExpired:
            continue


def results(directory: Path) -> dict[str, dict[str, object]]:
    """Key → what a run found; time and hardware aside."""
    found = {}
    for path in (directory / "runs").glob("*/runs/*/result.json"):
        content = json.loads(path.read_text())
        content["curves"].pop("seconds", None)
        found[path.parent.name] = {k: v for k, v in content.items() if k not in ("seconds", "environment")}
    return found


def checkpoints(directory: Path) -> list[Path]:
    return list((directory / "runs").glob("*/runs/*/checkpoint.pt"))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "tiny.toml").write_text(STUDY.format(epochs=40))
    return tmp_path


def test_killed_at_random_moments_it_ends_in_the_same_bits(study, tmp_path_factory):
    straight = tmp_path_factory.mktemp("straight")
    (straight / "tiny.toml").write_text(STUDY.format(epochs=40))
    assert start(straight, "--workers", "0").wait(timeout=120) == 0

    chance = random.Random(0)
    inodes: dict[Path, int] = {}
    resumed = 0
    for kills in range(1, 30):
        resumed += bool(checkpoints(study))
        process = start(study)
        if kills <= 3:
            before = {path: path.stat().st_mtime_ns for path in checkpoints(study)}
            wait_until(lambda before=before: any(fresh(path, before) for path in checkpoints(study)), process)
            try:
                process.wait(timeout=chance.uniform(0, 0.4))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=120)
        for path in (study / "runs").glob("*/runs/*/result.json"):
            assert inodes.setdefault(path, path.stat().st_ino) == path.stat().st_ino, "a finished run was repeated"
        if process.returncode == 0:
            break
    assert resumed >= 2
    assert results(study) == results(straight)
    assert len(results(study)) == 4
    assert not checkpoints(study)


def fresh(path: Path, before: dict[Path, int]) -> bool:
    """A checkpoint written since `before`; it may be gone again, its run being finished."""
    try:
        return path.stat().st_mtime_ns != before.get(path)
    except FileNotFoundError:
        return False


def test_ctrl_c_stops_within_two_seconds_and_says_how_to_go_on(study):
    started = time.monotonic()
    process = start(study, "--set", "train.epochs=4000")
    wait_until(lambda: len(checkpoints(study)) == 2, process)
    workers = children(process.pid)
    before = time.monotonic()
    slowness = max(1, (before - started) / 8)  # starting takes under 8 s where nothing else runs
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does: to every process of the group
    output, _ = process.communicate(timeout=60)
    assert time.monotonic() - before < 2 * slowness
    assert process.returncode == 130
    assert "0 of 4 runs are finished and saved in runs/tiny, 2 more up to their last checkpoint" in output
    assert "The same command again continues from there." in output
    assert "Traceback" not in output
    assert_gone(workers, before + 2 * slowness)


def test_the_second_one_is_told_who_runs_the_study(study):
    process = start(study, "--set", "train.epochs=4000")
    wait_until(lambda: bool(checkpoints(study)), process)
    second = start(study, "--set", "train.epochs=4000")
    output, _ = second.communicate(timeout=60)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert second.returncode == 2
    assert f"in use by process {process.pid} on " in output
    assert "Traceback" not in output


def test_workers_do_not_outlive_a_killed_parent(study):
    process = start(study, "--set", "train.epochs=4000")
    wait_until(lambda: len(checkpoints(study)) == 2, process)
    workers = children(process.pid)
    process.kill()  # the parent alone
    process.wait()
    assert_gone(workers, time.monotonic() + 60)


def assert_gone(processes: list[int], deadline: float) -> None:
    assert processes
    while any(alive(pid) for pid in processes):
        assert time.monotonic() < deadline
        os.sched_yield()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    """Exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
