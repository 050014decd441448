"""`normlab landscape`, as it is typed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner

from normlab.cli import main
from normlab.study.models import create_model

QUICK = ["--steps", "2", "--points", "2", "--only", "curves,slice"]
MODEL = "resnet8(width=4)"


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        return CliRunner().invoke(main, ["landscape", *map(str, arguments)])

    return call


def test_digits(run, tmp_path):
    result = run(MODEL, *QUICK, "--out", "new/out")
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith("expected: about")
    assert "In this run, step by step BatchNorm2d is" in result.stdout
    assert {path.name for path in (tmp_path / "new/out").iterdir()} == {"landscape.json", "curves.svg", "slice.svg"}


def test_plain_characters_where_the_terminal_has_no_others(tmp_path):
    command = [sys.executable, "-m", "normlab", "landscape", MODEL, *QUICK]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, env=environment, check=True)
    assert "effective beta-smoothness" in result.stdout.decode("ascii")
    assert b"?" not in result.stdout


def test_json_is_the_file_and_repeats(run, tmp_path):
    first = json.loads(run(MODEL, *QUICK, "--json", "--out", "out").stdout)
    again = json.loads(run(MODEL, *QUICK, "--json").stdout)
    assert json.loads((tmp_path / "out/landscape.json").read_text()) == first
    assert {**first, "seconds": 0} == {**again, "seconds": 0}


PRINTS = """
from torch import nn
from normlab.study.models import create_model

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = create_model("resnet8(width=4)", in_channels=3, num_classes=10)

    def forward(self, x):
        print("a model that prints")
        return self.net(x)
"""


def test_json_is_one_document_whatever_the_model_prints(run, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "prints.py").write_text(PRINTS)
    result = run("prints.py:Net", "--batch", "8x3x8x8", "--json", *QUICK)
    assert json.loads(result.stdout)["subject"].startswith("Net")
    assert "a model that prints" in result.stderr


def test_batch_to_against_and_alone(run):
    result = run(MODEL, "--batch", "8x3x8x8", "--to", "group(num_groups=2)", "--against", "instance", *QUICK)
    assert result.exit_code == 0, result.output
    assert "GroupNorm is" in result.output
    assert "than instance" in result.output
    assert "random labels" in result.output
    alone = run(MODEL, "--batch", "8x3x8x8", "--alone", *QUICK)
    assert "compared with nothing" in alone.output


def test_a_checkpoint_is_looked_around_as_it_is(run, tmp_path):
    model = create_model(MODEL, in_channels=1, num_classes=10)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "weights.pt")
    result = run(MODEL, "--checkpoint", "weights.pt", "--only", "slice,sharpness", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["settings"]["steps"] == 0
    torch.save({"fc.weight": torch.ones(3)}, tmp_path / "other.pt")
    (tmp_path / "text.pt").write_text("hello")
    for name, message in [
        ("other.pt", "does not fit"),
        ("text.pt", "no file of tensors"),
        ("none.pt", "cannot be read"),
    ]:
        refused = run(MODEL, "--checkpoint", name)
        assert refused.exit_code == 2
        assert message in refused.output
        assert len(refused.output.strip().splitlines()) == 1


def test_input_and_loader_factories(run, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "class Two(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.a, self.bn = nn.Linear(3, 5), nn.BatchNorm1d(5)\n"
        "    def forward(self, x, y):\n"
        "        return (self.bn(self.a(x * y)),)\n"
        "def batch(n=8):\n"
        "    return torch.ones(n, 3).cumsum(0), torch.ones(n, 3)\n"
        "def loader():\n"
        "    return [(torch.rand(8, 3), torch.ones(8, 3), torch.arange(8) % 5) for _ in range(2)]\n"
    )
    for option, value in [("--input", "mine.py:batch(n=6)"), ("--loader", "mine.py:loader")]:
        result = run("mine.py:Two", option, value, *QUICK)
        assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet9"], "did you mean 'resnet8'"),
        ([MODEL, "--only", "curve"], "did you mean 'curves'"),
        ([MODEL, "--against", "grup"], "did you mean 'group'"),
        ([MODEL, "--to", "grup"], "did you mean 'group'"),
        ([MODEL, "--data", "digit"], "did you mean 'digits'"),
        ([MODEL, "--batch", "8,3"], "should be sizes"),
        ([MODEL, "--batch", "8x3x8x8", "--data", "digits"], "one of them"),
        ([MODEL, "--batch", "8x3x8x8", "--batch-size", "8"], "--batch-size is of --data"),
        ([MODEL, "--batch-size", "1"], "from 2 to 300"),
        ([MODEL, "--batch-size", "0"], "from 2 to 300"),
        ([MODEL, "--seed", "9" * 23], "64 bits"),
        ([MODEL, "--lr", "-1"], "above 0"),
        ([MODEL, "--device", "cuda:99"], "cannot be used"),
        ([MODEL, "--input", "mine.py:x"], "no file 'mine.py'"),
        ([MODEL, "--out", "file/inside"], "choose another with --out"),
    ],
)
def test_bad_input_is_one_line(run, tmp_path, arguments, message):
    (tmp_path / "file").write_text("")
    result = run(*arguments)
    assert result.exit_code == 2
    lines = [line for line in result.output.strip().splitlines() if not line.startswith("torchvision's")]
    assert len(lines) == 1
    assert lines[0].startswith("Error: ")
    assert message in lines[0]


def test_a_network_that_diverges_ends_in_exit_code_1(run):
    assert run(MODEL, "--batch", "8x3x8x8", "--lr", "1e30", *QUICK).exit_code == 1


def test_help_loads_no_torch():
    code = "import sys, normlab.cli.landscape; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
