"""Commands as a terminal starts them."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

OWN = """
name = "own"
metric = "metric"
baseline = "a"
seeds = 2
train = "walks.py:walk"
[arms]
a = 0
b = 1
"""
"""A study whose function stands in walks.py beside it."""


def started(command: list[str], folder: Path, **environment: str) -> subprocess.Popen[str]:
    """The leader of a process group of its own, which heeds Ctrl-C also where these tests ignore it."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit SIG_IGN
    try:
        return subprocess.Popen(command, cwd=folder, env=os.environ | environment, start_new_session=True, **pipes)
    finally:
        signal.signal(signal.SIGINT, before)
