"""What it costs: in fresh processes, since peaks of memory never fall."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

COMMON = """
import json, resource, torch
from normlab.inputs import loss_of
from normlab.inspect import inspect
from normlab.study.models import load_model
torch.set_num_threads(1)
model, x = load_model("timm:resnet50"), torch.randn(32, 3, 64, 64)
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
"""
STEP = "loss_of(model.train()(x))[0].backward()"
INSPECT = "str(inspect(model, x))"
END = """
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([peak() - before, used.ru_utime + used.ru_stime]))
"""


def run(code):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", f"{COMMON}{code}{END}"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, env=environment).stdout)


@pytest.mark.slow
def test_memory_is_under_twice_a_step_and_all_of_it_takes_under_20_seconds():
    """Seconds of one core, start included: other programs may be running."""
    step, _ = run(STEP)
    own, seconds = run(INSPECT)
    assert own < 2 * step
    assert seconds < 20
