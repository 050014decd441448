"""`normlab doctor`: arguments, exit codes, what goes where."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from normlab.cli import main

FACTORIES = """
import sys
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
import helper

def net(width=4):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(width))

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, left, right):
        return {"scores": self.net(left + right)}

def pair():
    return torch.randn(8, 3, 8, 8), torch.randn(8, 3, 8, 8)

def poisoned():
    model = net()
    model[1].running_var.fill_(float("nan"))
    return model

def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1e-4)

def with_schedule(model):
    optimizer = sgd(model)
    return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)

def loader(size=8):
    return DataLoader(TensorDataset(torch.randn(17, 3, 8, 8)), batch_size=size)

def broken():
    raise KeyError("weights")

class Loud(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x):
        print("forward")
        return self.net(x)

def loud_pair(model):
    print("optimizer")
    return sgd(model)

def exits():
    sys.exit(0)

class Exits(nn.Module):
    def forward(self, x):
        sys.exit(0)

def batches():
    yield torch.randn(8, 3, 8, 8)

def raises(model):
    raise OSError("no disk")

three = 3
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "factories.py").write_text(FACTORIES)
    (tmp_path / "helper.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("factories", "helper"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def call(*arguments: str, code: int):
    result = CliRunner().invoke(main, ["doctor", *arguments])
    assert result.exit_code == code, result.output
    return result


def test_a_clean_model():
    result = call("factories.py:net", "--batch", "8x3x8x8", code=0)
    assert "no findings" in result.stdout
    assert result.stderr == ""


def test_findings():
    result = call("factories:poisoned", code=1)
    assert "NL003 poisoned-statistics · error, static" in result.stdout
    assert "1 finding," in result.stdout
    assert "\x1b" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "ids"),
    [
        (["--optimizer", "factories.py:sgd"], ["NL009"]),
        (["--optimizer", "factories.py:with_schedule"], ["NL009"]),
        (["--loader", "factories.py:loader"], ["NL002"]),
        (["--loader", "factories.py:loader(size=2)"], ["NL002", "NL004", "NL029"]),
        (["--batch", "2x3x8x8", "--select", "NL004,few-values-per-channel"], ["NL004", "NL029"]),
        (["--batch", "2x3x8x8", "--ignore", "small-batch"], ["NL029"]),
    ],
    ids=" ".join,
)
def test_what_trains_it_is_looked_at(arguments, ids):
    data = json.loads(call("factories.py:net(width=8)", *arguments, "--json", code=1).stdout)
    assert [found["id"] for found in data["findings"]] == ids


def test_several_inputs_come_from_a_factory():
    data = json.loads(call("factories.py:Two", "--input", "factories.py:pair", "--json", code=0).stdout)
    assert data["failure"] is None
    assert "NL010" in data["clean"]


def test_what_a_model_prints_is_no_part_of_the_report():
    result = call("factories.py:Loud", "--batch", "8x3x8x8", "--optimizer", "factories.py:loud_pair", "--json", code=1)
    assert [found["id"] for found in json.loads(result.stdout)["findings"]] == ["NL009"]
    assert {"forward", "optimizer"} <= set(result.stderr.splitlines())


def test_it_could_not_be_told():
    result = call("factories.py:Two", "--batch", "8x3x8x8", code=2)
    assert result.stderr.startswith("Error: the model does not run on the batch in training mode: TypeError: ")
    assert "no findings" in result.stdout


def test_a_model_that_exits_with_0_is_not_clean():
    result = call("factories.py:Exits", "--batch", "8x3x8x8", code=2)
    assert "sys.exit(0)" in result.stderr


def test_sarif_points_at_the_factory_where_the_class_is_installed(folder):
    call("factories.py:poisoned", "--sarif", "out.sarif", code=1)
    [result] = json.loads((folder / "out.sarif").read_text())["runs"][0]["results"]
    place = result["locations"][0]["physicalLocation"]
    line = 1 + FACTORIES.splitlines().index("def poisoned():")
    assert place == {"artifactLocation": {"uri": "factories.py"}, "region": {"startLine": line}}


def test_a_log_that_is_not_written_is_told(folder):
    result = call("factories.py:broken", "--sarif", "out.sarif", code=2)
    assert "No SARIF log is written:" in result.stderr
    assert not (folder / "out.sarif").exists()


def test_sarif(folder):
    call("factories.py:poisoned", "--sarif", "out.sarif", code=1)
    assert json.loads((folder / "out.sarif").read_text())["runs"][0]["results"][0]["ruleId"] == "NL003"
    assert "cannot be written" in call("factories.py:net", "--sarif", "none/out.sarif", code=2).stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["factories.py:nett"], "did you mean 'net'?"),
        (["factory.py:net"], "there is no file 'factory.py'; did you mean 'factories.py'?"),
        (["factorie:net"], "there is no module 'factorie'; did you mean 'factories'?"),
        (["factories.py:broken"], "KeyError: 'weights'"),
        (["factories.py:three"], "is int, and no function that makes a torch module"),
        (["factories.py:pair"], "made tuple, and no torch module"),
        (["factories.py:net(wdth=3)"], "unexpected keyword argument 'wdth'"),
        (["factories.py:net", "--batch", "8x3", "--input", "factories.py:pair"], "give one of them"),
        (["factories.py:net", "--batch", "8,3,8,8"], "8x3x32x32"),
        (["factories.py:net", "--select", "NL03"], "unknown rule 'NL03'; did you mean 'NL"),
        (["factories.py:net", "--optimizer", "factories.py:three"], "cannot be called"),
        (["factories.py:net", "--optimizer", "factories.py"], "should read package.module:name or file.py:name"),
        (["factories.py:net", "--optimizer", "factories.py:net"], "TypeError"),
        (["factories.py:net", "--optimizer", "factories.py:raises"], "OSError: no disk"),
        (["factories.py:net", "--loader", "factories.py:broken"], "KeyError: 'weights'"),
        (["factories.py:net", "--input", "factories.py:sgdd"], "did you mean 'sgd'?"),
        (["factories.py:net", "--ignore", "poisoned-statistic"], "did you mean 'poisoned-statistics'?"),
        (["factories.py:net", "--device", "gpu"], "device 'gpu' cannot be used"),
        (["factories.py:exits"], "sys.exit(0)"),
        (["factories.py:net", "--loader", "factories.py:batches"], "the loader is an iterator"),
        (["factories.py:net", "--select", ""], "no rule is left"),
        (["resnet18"], "did you mean 'timm:resnet18'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_arguments_are_one_line_on_stderr(arguments, words):
    result = call(*arguments, code=2)
    assert result.stdout == ""
    [line] = [line for line in result.stderr.splitlines() if "torchvision's" not in line]
    assert line.startswith("Error: ")
    assert words in line


@pytest.mark.parametrize("columns", ["80", "200"])
def test_the_report_fits_the_terminal(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    lines = call("factories.py:poisoned", "--batch", "2x3x8x8", code=1).stdout.splitlines()
    assert 60 < max(map(len, lines)) <= min(int(columns), 120)


def test_help_loads_no_torch():
    code = (
        "import sys; from normlab.cli import main\n"
        "try: main(['doctor', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0
    assert "Exit code 0: clean; 1: findings; 2: it could not be told." in done.stdout


def test_an_encoding_without_these_letters():
    result = CliRunner(charset="ascii").invoke(main, ["doctor", "factories.py:poisoned", "--select", "NL003"])
    assert result.exit_code == 1
    assert "NL003 poisoned-statistics - error, static" in result.stdout
