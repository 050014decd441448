"""`normlab inspect`: arguments, exit codes, what goes where."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from normlab.cli import main

FACTORIES = """
import torch
from torch import nn

def net(width=8):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 4, 3))

def loud():
    model = net()
    nn.init.constant_(model[1].weight, 5.0)
    return model

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, left, right):
        return {"scores": self.net(left + right)}

def pair():
    return torch.randn(8, 3, 8, 8), torch.randn(8, 3, 8, 8)

def spoiled():
    x = torch.randn(8, 3, 8, 8)
    x[0] = float("nan")
    return x

def broken():
    raise KeyError("weights")

def ends():
    raise SystemExit(0)

class Prints(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x):
        print("a model that prints")
        return self.net(x)

def closed():
    model = net()
    nn.init.zeros_(model[1].weight)
    return model

def attention():
    return nn.MultiheadAttention(8, 2)

def thrice():
    return (torch.randn(4, 3, 8),) * 3
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "factories.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "factories", raising=False)
    return tmp_path


def call(*arguments: str, code: int):
    result = CliRunner().invoke(main, ["inspect", *arguments])
    assert result.exit_code == code, result.output
    return result


def test_a_healthy_model():
    result = call("factories.py:net", "--batch", "8x3x8x8", code=0)
    assert "\nHealthy: " in result.stdout
    assert result.stderr == ""


def test_the_batch_is_images_where_none_is_given():
    assert "32x3x64x64" in call("factories.py:net", code=0).stdout


@pytest.mark.parametrize("batch", [("--batch", "8x3x8x8"), ("--input", "factories.py:spoiled")], ids=["gamma", "nan"])
def test_unhealthy(batch):
    assert "Not healthy" in call("factories.py:loud", *batch, code=1).stdout


def test_json_is_all_there_is():
    found = json.loads(call("factories.py:Two", "--input", "factories.py:pair", "--json", code=0).stdout)
    assert found["healthy"] is True
    assert found["rows"][0]["name"] == "net.1"


def test_json_is_one_document_whatever_the_model_prints():
    result = call("factories.py:Prints", "--batch", "8x3x8x8", "--json", code=0)
    assert json.loads(result.stdout)["healthy"] is True
    assert "a model that prints" in result.stderr


def test_a_network_closed_by_gamma_0_is_not_healthy():
    assert "no gradient comes back" in call("factories.py:closed", "--batch", "8x3x8x8", code=1).stdout


def test_exit_code_2_where_nothing_could_be_measured():
    assert "Unknown: " in call("factories.py:attention", "--input", "factories.py:thrice", code=2).stdout


def test_sizes_with_a_capital_x():
    assert "8x3x8x8" in call("factories.py:net", "--batch", "8X3X8X8", code=0).stdout


def test_convert_first():
    assert "1 GroupNorm" in call("factories.py:net", "--batch", "8x3x8x8", "--to", "group(num_groups=2)", code=0).stdout


def test_a_page_beside_the_text(folder):
    call("factories.py:loud", "--batch", "8x3x8x8", "--html", "page.html", code=1)
    assert "Not healthy" in (folder / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nonsense",), "unknown model 'nonsense'"),
        (("timm:resnet19",), "did you mean 'timm:resnet"),
        (("factories.py:nat",), "did you mean 'net'?"),
        (("factories.py:broken",), "KeyError"),
        (("factories.py:ends",), "failed: it called sys.exit(0)"),
        (("factories.py:net", "--batch", ""), "batch '' should be sizes"),
        (("factories.py:net", "--batch", "99999999x3x999x999"), "out of memory"),
        (("factories.py:net", "--batch", "8x3x8x8", "--html", ""), "cannot be written: Is a directory"),
        (("factories.py:net", "--batch", "8x3y"), "should be sizes with x between them"),
        (("factories.py:net", "--batch", "8x3x8x8", "--input", "factories.py:pair"), "give one of them"),
        (("factories.py:net", "--batch", "8x5x8x8"), "the model does not run on a batch"),
        (("factories.py:net", "--input", "factories.py:pear"), "did you mean 'pair'?"),
        (("factories.py:net", "--device", "cuda:99"), "device 'cuda:99' cannot be used"),
        (("factories.py:net", "--to", "grup"), "unknown norm 'grup'; did you mean 'group'?"),
        (("factories.py:net", "--batch", "8x3x8x8", "--html", "no/page.html"), "no/page.html cannot be written"),
    ],
)
def test_bad_input_is_one_line_and_code_2(arguments, message):
    result = call(*arguments, code=2)
    assert message in result.stderr
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_output_in_any_encoding_and_without_colour(encoding):
    command = [sys.executable, "-m", "normlab", "inspect", "factories.py:net", "--batch", "8x3x8x8"]
    environment = {"PYTHONIOENCODING": encoding, "NO_COLOR": "1", "COLUMNS": "90", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode(encoding)
    assert "\033" not in text
    assert "?" not in text
    assert max(map(len, text.splitlines())) <= 90


def test_help_loads_no_torch():
    code = "import sys; from normlab.cli import main; main(['inspect', '--help'], standalone_mode=False); "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0
