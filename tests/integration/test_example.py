"""The documented examples, as a user starts them."""

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_a_plain_training_loop_becomes_a_study(tmp_path):
    for _ in range(2):  # the second time nothing is trained
        command = [sys.executable, str(EXAMPLES / "own_training_function.py")]
        output = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True).stdout
        assert "batch" in output
        assert "Report: runs/own_training_function/report.html" in output
        results = sorted((tmp_path / "runs").glob("*/runs/*/result.json"))
        assert len(results) == 24


def test_a_normalizer_of_ones_own_in_ten_lines():
    command = [sys.executable, str(EXAMPLES / "own_normalizer.py")]
    output = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert "gradient of the weight" in output
    assert "ran on numba" in output
