"""The documented example, as a user starts it."""

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_training_function.py"


def test_a_plain_training_loop_becomes_a_study(tmp_path):
    for _ in range(2):  # the second time nothing is trained
        command = [sys.executable, str(EXAMPLE)]
        output = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True).stdout
        assert "batch" in output
        assert "Report: runs/own_training_function/report.html" in output
        results = sorted((tmp_path / "runs").glob("*/runs/*/result.json"))
        assert len(results) == 24
