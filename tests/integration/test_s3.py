"""A study whose store is an S3 server (moto's, over HTTP), interrupted and gone on with."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration.commands import OWN, started

pytest.importorskip("s3fs", reason="needs s3fs")
pytest.importorskip("moto.server", reason="needs moto[server]")

SOURCE = """
import time
def walk(arm, streams, context):
    state = context.restore() or {"step": 0, "x": 0.0}
    x = state["x"]
    for step in range(state["step"], 20):
        x += streams.numpy("walk", step).normal() + arm
        time.sleep(0.05)
        context.log(begun=float(state["step"]))
        context.checkpoint({"step": step + 1, "x": x}, done=(step + 1) / 20)
    return {"metric": x}
"""


@pytest.fixture
def s3(monkeypatch, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    names = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**names, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}.items():
        monkeypatch.setenv(name, value)
    with (tmp_path / "server.log").open("w") as log:
        command = [sys.executable, "-m", "moto.server", "-p", str(port)]
        server = subprocess.Popen(command, env=os.environ, stdout=log, stderr=log)
    try:
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert server.poll() is None
            time.sleep(0.1)
        import s3fs

        fs = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)
        fs.mkdir("studies")
        yield fs
    finally:
        server.kill()
        server.wait()


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "normlab", "run", "own.toml", "--checkpoint-every", "0", *more]
    return started(command, folder)


def test_interrupted_it_goes_on_from_the_bucket_to_the_same_numbers(s3, tmp_path):
    (tmp_path / "walks.py").write_text(SOURCE)
    (tmp_path / "own.toml").write_text(OWN)
    process = start(tmp_path, "--store", "s3://studies/own", "--workers", "2")
    while len(s3.glob("studies/own/runs/*/checkpoint.pt")) < 2:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "saved in s3://studies/own" in output
    for more in (["--store", "s3://studies/own", "--workers", "2"], ["--workers", "0"]):
        process = start(tmp_path, *more)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
    there = {path.split("/")[3]: json.loads(s3.cat_file(path)) for path in s3.glob("studies/own/runs/*/result.json")}
    here = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("runs/own/runs/*/result.json")}
    assert {key: result["metrics"] for key, result in there.items()} == {k: r["metrics"] for k, r in here.items()}
    assert len(there) == 4
    assert any(result["curves"]["begun"][-1] > 0 for result in there.values())
    assert sorted(path.rpartition("/")[2] for path in s3.find("studies/own")) == ["result.json"] * 4 + ["store.json"]
