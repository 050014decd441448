"""Runs on a Ray cluster of two nodes, which are processes of this machine; what is killed is killed for good."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path

import pytest
from click.testing import CliRunner

import normlab
from normlab.cli import main
from normlab.errors import SpecError, StoreError, Unavailable
from normlab.study.executors import executor
from normlab.study.executors.session import joined
from normlab.study.run import Options
from tests.integration.commands import OWN, started

ray = pytest.importorskip("ray", reason="needs ray: pip install 'normlab[ray]'")

QUIET = {"include_dashboard": False, "object_store_memory": 80 * 2**20}
DIGITS = """
baseline = "base"
seeds = 2
[data]
name = "digits(train=100, validation=100)"
[model]
name = "resnet8(width=4)"
[train]
epochs = 3
batch_size = 20
lr = 0.02
[arms]
base = "baseline"
small = "revisited(scale=0.1)"
"""


def walk(arm, streams, context):
    """A run with a checkpoint after each step; it notes where each attempt began."""
    state = context.restore() or {"step": 0, "x": 0.0}
    with (context.directory / "begun.txt").open("a") as file:
        file.write(f"{state['step']}\n")
    x = state["x"]
    for step in range(state["step"], arm["steps"]):
        x += streams.numpy("walk", step).normal() + arm["shift"]
        time.sleep(arm["sleep"])
        context.log(x=x)
        context.checkpoint({"step": step + 1, "x": x}, done=(step + 1) / arm["steps"])
    return {"metric": x}


def fall(arm, streams, context):
    if arm == "falls":
        os.kill(os.getpid(), signal.SIGKILL)
    return {"metric": 1.0}


def nothing(arm, streams, context):
    return {"metric": float(arm)}


def walks(steps: int = 5, sleep: float = 0.0, seeds: int = 2) -> normlab.Study:
    arms = {name: {"shift": shift, "steps": steps, "sleep": sleep} for name, shift in (("a", 0.0), ("b", 1.0))}
    return normlab.Study(arms, train=walk, seeds=seeds)


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **QUIET})
    try:
        made.add_node(num_cpus=1, **QUIET)
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


@pytest.fixture(scope="module")
def member(cluster):
    """This process as part of the cluster for several tests, so that its workers load torch once."""
    with joined(cluster.address, Options()):
        yield cluster


def found(store: Path) -> dict[str, dict[str, object]]:
    """Key → result; time and hardware aside."""
    results = {}
    for path in store.glob("runs/*/result.json"):
        content = json.loads(path.read_text())
        content["curves"].pop("seconds", None)
        results[path.parent.name] = {k: v for k, v in content.items() if k not in ("seconds", "environment")}
    return results


def test_a_cluster_gives_the_same_bits_as_this_process(cluster, tmp_path):
    (tmp_path / "tiny.toml").write_text(DIGITS)
    study = normlab.Study.load(tmp_path / "tiny.toml")
    study.run(store=tmp_path / "here", workers=0, progress=False)
    study.run(store=tmp_path / "there", on=cluster.address, progress=False)
    assert len(found(tmp_path / "here")) == 4
    assert found(tmp_path / "there") == found(tmp_path / "here")
    assert not ray.is_initialized()


def test_a_node_killed_in_the_middle_loses_nothing(cluster, tmp_path, capfd):
    """Its runs go on from their checkpoints, on the nodes that are left."""
    doomed = cluster.add_node(num_cpus=1, **QUIET)
    study = walks(steps=40, sleep=0.05, seeds=3)
    store = tmp_path / "there"

    def kill() -> None:
        while len(list(store.glob("runs/*/checkpoint.pt"))) < 3:  # all three nodes are in the middle of a run
            time.sleep(0.05)
        cluster.remove_node(doomed, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    study.run(store=store, on=cluster.address, checkpoint_seconds=0.0)
    killer.join()
    said = capfd.readouterr()
    assert "its node died; it goes on from its last checkpoint" in said.err
    assert "raylet" not in said.out + said.err
    begun = [list(map(int, path.read_text().split())) for path in store.glob("runs/*/begun.txt")]
    again = [attempts for attempts in begun if len(attempts) > 1]
    assert len(again) == 1
    assert again[0][1] > 0
    study.run(store=tmp_path / "here", workers=0, progress=False)
    assert found(store) == found(tmp_path / "here")
    assert len(found(store)) == 6


def test_a_cluster_of_another_ray_is_named(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(ray, "__version__", "2.0.0")
    with pytest.raises(Unavailable, match=r"runs Ray 2\.\d+\.\d+ with Python 3\S+, this process Ray 2.0.0 with Python"):
        walks().run(store=tmp_path, on=cluster.address, progress=False)


def test_a_run_whose_process_dies_twice_has_failed_and_the_others_go_on(member, tmp_path):
    study = normlab.Study({"stands": "stands", "falls": "falls"}, train=fall, seeds=2)
    results = study.run(store=tmp_path, on=member.address, progress=False)
    assert sorted(results.failures.values()) == ["its process died 2 times; killed for memory?"] * 2
    assert len(results.finished) == 2


def test_a_run_costs_less_than_a_third_of_a_second_beside_itself(member, tmp_path):
    study = normlab.Study({"a": 0, "b": 1}, train=nothing, seeds=20)
    store = study.store(tmp_path).open(create=True)
    events = executor(member.address)(nothing, deque(study.runs), store, Options())
    ends = [time.monotonic() for event in events if event.kind == "ended"]
    assert len(ends) == 40
    overhead = (ends[-1] - ends[3]) / 36 * 2  # by when both nodes have loaded torch; two run at a time
    print(f"overhead {overhead:.4f} s")
    assert overhead < 0.3


def test_no_more_is_sent_than_there_is_room_for(member, tmp_path):
    study = walks(steps=2, sleep=0.05, seeds=4)
    store = study.store(tmp_path).open(create=True)
    running, most = 0, 0
    for event in executor(member.address)(walk, deque(study.runs), store, Options()):
        running += {"started": 1, "ended": -1}.get(event.kind, 0)
        most = max(most, running)
    assert most == 2


def test_a_run_may_be_added_while_others_run(member, tmp_path):
    study = walks(seeds=2)
    store = study.store(tmp_path).open(create=True)
    waiting, later = deque(study.runs[:1]), list(study.runs[1:])
    ended = 0
    for event in executor(member.address)(walk, waiting, store, Options()):
        ended += event.kind == "ended"
        if event.kind == "ended" and later:
            waiting.append(later.pop())
    assert ended == len(study.runs)


def test_a_full_disk_stops_the_study_and_keeps_what_is_finished(member, tmp_path):
    def fills(arm, streams, context):
        if arm == 1.0:
            raise OSError(28, "No space left on device")
        return {"metric": arm}

    study = normlab.Study({"a": 0.0, "b": 1.0}, train=fills, seeds=2)
    with pytest.raises(StoreError, match=r"No space left on device; what is finished is kept"):
        study.run(store=tmp_path, on=member.address, workers=1, progress=False)
    assert len(found(tmp_path)) == 1
    assert not list(tmp_path.glob("runs/*/traceback.txt"))


def test_a_node_with_other_versions_is_named(member, tmp_path, monkeypatch):
    from normlab.study.executors import ray as executing

    monkeypatch.setattr(executing, "versions", lambda: {**wanted, "torch": "1.0"})
    with pytest.raises(Unavailable, match=r"node .* has torch 2\..*, where the study was started it is torch 1.0"):
        walks().run(store=tmp_path, on=member.address, progress=False)


wanted = {"torch": "1.0"}


def test_a_run_that_no_node_can_take_waits_and_says_so(member, tmp_path):
    study = walks()
    store = study.store(tmp_path).open(create=True)
    events = executor(member.address)(walk, deque(study.runs), store, Options(threads=3))
    assert next(events).note == "no node has what a run takes (3 CPU); waiting for one"
    events.close()


def test_the_gpu_is_left_to_ray(member, tmp_path):
    with pytest.raises(Unavailable, match="no GPU in the Ray cluster; --device cpu"):
        walks().run(store=tmp_path, on=member.address, device="cuda", progress=False)
    with pytest.raises(SpecError, match="Ray chooses which GPU; --device cuda"):
        walks().run(store=tmp_path, on=member.address, device="cuda:1", progress=False)


@pytest.fixture
def silent():
    """A port where somebody listens and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("kind", ["{}", "ray://{}"])
@pytest.mark.parametrize("place", ["127.0.0.1:1", "127.0.0.1:{silent}", "nowhere.invalid:6379"])
def test_an_address_that_does_not_answer_is_one_line_and_soon(silent, tmp_path, kind, place):
    (tmp_path / "tiny.toml").write_text(DIGITS)
    address = kind.format(place.format(silent=silent))
    before = time.monotonic()
    result = CliRunner().invoke(main, ["run", str(tmp_path / "tiny.toml"), "--on", address])
    assert time.monotonic() - before < 15
    assert result.exit_code == 2
    assert result.output.count("\n") == 1
    assert f"Error: no Ray cluster at {address}: " in result.output


def test_what_is_no_ray_is_told_apart(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(Unavailable, match=r"what answers at .* is no Ray cluster"):
            executor(f"127.0.0.1:{server.getsockname()[1]}")


@pytest.mark.parametrize("on", ["rya", "http://x:1", "host", "ray://host"])
def test_an_address_that_reads_like_none_is_refused(on):
    with pytest.raises(SpecError, match="should be local, ray, or a Ray cluster: auto, host:port or ray://host:port"):
        executor(on)


def test_ctrl_c_stops_a_ray_of_our_own_and_the_same_command_goes_on(tmp_path):
    (tmp_path / "walks.py").write_text("import time\n" + SOURCE)
    (tmp_path / "own.toml").write_text(OWN)
    command = [sys.executable, "-m", "normlab", "run", "own.toml", "--on", "ray", "--checkpoint-every", "0"]
    process = started(command, tmp_path)
    store = tmp_path / "runs" / "own"
    while not list(store.glob("runs/*/checkpoint.pt")):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "The same command again continues from there." in output
    assert "Traceback" not in output
    assert not of_session(process.pid)
    assert list(store.glob("runs/*/checkpoint.pt"))


SOURCE = """
def walk(arm, streams, context):
    for step in range(1000):
        time.sleep(0.05)
        context.checkpoint({"step": step}, done=step / 1000)
    return {"metric": 1.0}
"""


def of_session(session: int) -> list[str]:
    """Commands of the processes that are left of a session, zombies aside."""
    listed = subprocess.run(["ps", "-eo", "sid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    return [row[2] for row in rows if int(row[0]) == session and not row[1].startswith("Z")]
