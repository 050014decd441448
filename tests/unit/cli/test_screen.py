from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from normlab.cli import main
from normlab.cli.screen import split

FAST = ("--norms", "batch,layer,weight_standardized", "--seeds", "1", "--batches", "1", "--batch-size", "8")
OWN = """
import torch
from torch import nn

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))

    def forward(self, left, right):
        print("a model that prints")
        return {"map": self.body(torch.cat([left, right], 1))}

def net(): return Two()
def two(): return torch.randn(16, 1, 8, 8), torch.randn(16, 1, 8, 8)
def nan(): return torch.full((16, 1, 8, 8), float("nan")), torch.randn(16, 1, 8, 8)
def broken(): raise ValueError("no such disk")
def zeros(): return torch.zeros(64, 1, 8, 8), torch.arange(64) % 10

class Nothing(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 5)

    def forward(self, x): return self.b(self.norm(self.a(x * 0)))

def nothing(): return Nothing()
def functional(): return nn.BatchNorm1d(6)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)


def call(*arguments: str, code: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(main, ["screen", *arguments])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.stdout, result.stderr


def test_ranks_on_digits():
    shown, _ = call("resnet8(width=8)", "--data", "digits", *FAST)
    assert shown.index(" 1  batch") < shown.index(" 3  weight_standardized")
    assert "cross-entropy with the labels" in " ".join(shown.split())
    assert "resnet8(width=8), batches of 8 from digits" in shown
    assert "agreed with trained accuracy" in shown
    assert "results/screen/report.md in normlab's repository" in " ".join(shown.split())


def test_json_is_one_document_whatever_the_model_prints(own):
    shown, said = call("own.py:net", "--data", "own.py:two", "--json", *FAST)
    assert [one["rank"] for one in json.loads(shown)["ranked"]] == [1, 2, 3]
    assert "a model that prints" in said


def test_exit_code_1_where_nothing_is_healthy():
    call("resnet8(width=8)", "--data", "1x8x8", *FAST, "--norms", "weight_standardized", code=1)


def test_a_network_through_which_nothing_passes_is_dead(own):
    shown, _ = call("own.py:nothing", "--data", "6", *FAST, "--norms", "batch,none", code=1)
    assert shown.count(" 1  ") == 2
    assert shown.count("dead") == 2


def test_random_numbers_of_a_shape():
    shown, _ = call("resnet8(width=8)", "--data", "2x8x8", *FAST)
    assert "no labels" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["resnet9", "--data", "digits"], "did you mean 'resnet8'"),
        (["resnet8", "--data", "digts"], "did you mean 'digits'"),
        (["resnet8", "--data", "digits(trane=3)"], "did you mean 'train'"),
        (["resnet8", "--data", "8x"], "data '8x' should be the sizes of one example"),
        (["resnet8", "--data", "own.py:tow"], "did you mean 'two'"),
        (["resnet8", "--data", "own.py:broken"], "ValueError: no such disk"),
        (["resnet8", "--data", "own.py:zeros"], "64 times the same example"),
        (["own.py:functional", "--data", "6"], "no convolution and no fully connected layer"),
        (["own.py:net", "--data", "own.py:nan"], "holds NaN or infinity"),
        (["own.py:net", "--data", "1x8x8"], "missing 1 required positional argument: 'right'"),
        (["own.py:net", "--data", "own.py:two", "--batch-size", "17"], "holds 16 examples, too few for a batch of 17"),
        (["resnet8", "--data", "digits", "--norms", "btach"], "did you mean 'batch'"),
        (["resnet8", "--data", "digits", "--norms", ","], "names none"),
        (["resnet8", "--data", "digits", "--batch-size", "0"], "batch_size=0 should be"),
        (["resnet8", "--data", "digits", "--seeds", "-1"], "seeds=-1 should be"),
        (["resnet8", "--data", "digits", "--device", "cuda:77"], "device 'cuda:77' cannot be used"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line(own, arguments, says):
    shown, said = call(*arguments, code=2)
    assert not shown
    error = [line for line in said.splitlines() if line.startswith("Error: ")]
    assert len(error) == 1
    assert says in error[0]


@pytest.mark.parametrize("missing", [[], ["resnet8"]])
def test_what_is_missing_is_told(missing):
    assert "Missing" in call(*missing, code=2)[1]


def test_specs_with_commas_are_split_outside_their_brackets():
    assert split("batch, group(num_groups=8, lower=True),layer") == [
        "batch",
        "group(num_groups=8, lower=True)",
        "layer",
    ]


def test_help_loads_no_torch():
    code = (
        "import sys\nfrom normlab.cli import main\ntry:\n main(['screen', '--help'])\nfinally:\n"
        " assert not {'torch', 'scipy', 'matplotlib'} & set(sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert "--batch-size" in found.stdout
