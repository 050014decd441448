"""The connection to a Ray cluster, and one line for each way in which it can fail."""

from __future__ import annotations

import importlib
import logging
import os
import re
import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import loky

from normlab.errors import Unavailable
from normlab.study.run import Options

OWN = "local"  # what Ray calls a Ray of our own
ANSWER = 5.0  # seconds within which somebody has to answer at the address
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_SCHEDULER_EVENTS": "0"}


@contextmanager
def joined(address: str, options: Options) -> Generator[None, None, None]:
    """Part of the cluster inside; a connection that the program already has is used and left as it is."""
    import ray

    if ray.is_initialized():
        yield
        return
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    worker: Any = importlib.import_module("ray._private.worker")
    talks, worker._worker_logs_enabled = worker._worker_logs_enabled, False  # else a dead node's log is on our stdout
    try:
        _init(address, options)
        yield
    finally:
        ray.shutdown()
        worker._worker_logs_enabled = talks


def _init(address: str, options: Options) -> None:
    import ray

    own = {"num_cpus": max(loky.cpu_count(), options.threads * options.devices), "object_store_memory": 100 * 2**20}
    more: dict[str, Any] = {**own, "include_dashboard": False} if address == OWN else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **more)
    except (Exception, SystemExit) as error:
        raise Unavailable(no_cluster(address, str(error))) from None


def no_cluster(address: str, text: str) -> str:
    """One line for what `ray.init` raises."""
    versions_ = re.findall(r"(Ray|Python): *v?([\d.]+\w*)", text)
    if "ersion" in text and len(versions_) >= 4:
        there, here = (" with ".join(f"{name} {v}" for name, v in part) for part in (versions_[:2], versions_[2:4]))
        return f"the Ray cluster at {address} runs {there}, this process {here}; install the same on both sides"
    if "Could not find any running Ray" in text:
        return "--on auto: no Ray cluster on this machine, and RAY_ADDRESS is not set; `ray start --head` starts one"
    said, traceback, rest = text.partition("Traceback (most recent call last):")
    if traceback:  # of Ray's proxy
        said += next(line for line in reversed([said, *rest.splitlines()]) if line.strip())
    why = f"cannot join the Ray cluster at {address}: {' '.join(said.split())[:300]}"
    if os.environ.get("RAY_AUTH_MODE") == "token":
        return why
    # heads ask for a token by default, and whoever joins does not send it by default
    return f"{why}; if it asks for a token, set RAY_AUTH_MODE=token here, with the head's ~/.ray/auth_token"


def cannot_work(error: Exception) -> str:
    """One line for what Ray says when a task could not even begin."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if any("No module named" in line for line in lines):
        missing = next(line for line in reversed(lines) if "No module named" in line)
        return f"a node of the cluster cannot load what it is to run ({missing}); install the same everywhere"
    return f"a task of the cluster failed outside the run: {lines[-1] if lines else type(error).__name__}"


def check_answers(address: str) -> None:
    """Ask for a sign of life, since Ray itself waits over a minute and then ends the process.

    Raises:
        Unavailable: no connection, or nobody who speaks gRPC.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    hint = "`ray status` on the head node says whether it runs; 6379 is for host:port, 10001 for ray://"
    try:
        with socket.create_connection((host, int(port)), timeout=ANSWER) as connection:
            if os.environ.get("RAY_USE_TLS") == "1":
                return
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
            frame = connection.recv(9)
    except (OSError, OverflowError) as error:
        why = "no answer" if isinstance(error, TimeoutError) else getattr(error, "strerror", None) or str(error)
        raise Unavailable(f"no Ray cluster at {address}: {why}; {hint}") from None
    if len(frame) < 4 or frame[3] != 4:  # a server's SETTINGS, with which HTTP/2 and so gRPC begin
        raise Unavailable(f"what answers at {address} is no Ray cluster; {hint}")


def answers(address: str) -> bool:
    """Whether somebody accepts connections at host:port."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER).close()
    except OSError:
        return False
    return True
