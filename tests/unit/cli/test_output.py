"""Output that cannot be written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = {
    "power": ["power", "--effect", "1"],
    "inspect": ["inspect", "resnet8(width=4)", "--batch", "4x3x8x8"],
    "doctor": ["doctor", "resnet8(width=4)"],
    "help": ["screen", "--help"],
    "help of all": ["--help"],
}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="takes /dev/full")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_one_line_and_code_2(name):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "normlab", *COMMANDS[name]],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            text=True,
        )
    assert done.stderr == "Error: the output cannot be written: No space left on device\n"
    assert done.returncode == 2


@pytest.mark.skipif(sys.platform == "win32", reason="takes a shell")
@pytest.mark.parametrize("name", ["inspect", "doctor", "help", "help of all"])
def test_a_closed_output_is_one_line_and_code_2(name):
    command = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-m", "normlab", *COMMANDS[name]]
    done = subprocess.run(command, stderr=subprocess.PIPE, check=False, text=True)
    assert done.stderr == "Error: standard output is closed: nothing could be said\n"
    assert done.returncode == 2
