"""`normlab doctor` under torchrun: processes that differ are found, and one that ends keeps nobody waiting."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

TORCHRUN = """
import os, sys
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

rank = int(os.environ["RANK"])

def net():
    print("building")
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2))

def differs():
    model = net().train()
    model[1].train(rank == 0)
    model[1].running_mean.fill_(float(rank))
    return model

class Dies(nn.Module):
    def forward(self, x):
        os._exit(7) if rank else None

def dies():
    return nn.Sequential(net(), Dies())

def loader(more=0):
    images = torch.randn(16 + more * rank, 3, 8, 8, generator=torch.Generator().manual_seed(rank))
    return DataLoader(TensorDataset(images), batch_size=8)
"""
STARTS = {
    "clean": ("net.py:net", "--loader", "net.py:loader"),
    "differs": ("net.py:differs", "--loader", "net.py:loader(more=8)"),
    "dies": ("net.py:dies", "--batch", "8x3x8x8"),
}


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """Each as torchrun starts it, at the same time."""
    folder = tmp_path_factory.mktemp("torchrun")
    (folder / "net.py").write_text(TORCHRUN)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "normlab"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": folder, "env": environment}
    runs = {name: subprocess.Popen([*command, "doctor", *given, "--json"], **pipes) for name, given in STARTS.items()}
    try:
        return {name: (*run.communicate(timeout=120), run.returncode) for name, run in runs.items()}
    finally:
        for run in runs.values():
            run.kill()


def test_torchrun_of_what_is_alike_is_clean(started):
    out, errors, code = started["clean"]
    assert code == 0, errors
    assert json.loads(out)["findings"] == []
    assert errors.count("building") == 2, "what a model prints is not on stdout"


def test_torchrun_finds_modes_buffers_and_uneven_batches(started):
    out, _, code = started["differs"]
    found = json.loads(out)
    assert (code, found["exit_code"]) == (1, 1)
    assert [finding["id"] for finding in found["findings"]] == ["NL007", "NL013", "NL107", "NL108"]


def test_torchrun_with_a_process_that_dies_keeps_nobody_waiting(started):
    out, errors, code = started["dies"]
    assert (out, code) == ("", 1)
    assert "exitcode  : 7" in errors
    assert "all_gather" not in errors, "no traceback of those that are left"
