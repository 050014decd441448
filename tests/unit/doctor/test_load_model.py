"""Networks by name: each form, near names, and nothing that passes silently."""

from __future__ import annotations

import socket
import sys

import pytest
import torch
from torch import nn

from normlab.errors import SpecError
from normlab.study.models import load_model
from normlab.study.objects import load_object

SOURCE = """
from torch import nn
built = []

def make(width=4):
    built.append(width)
    return nn.Linear(3, width)

network = nn.Linear(5, 6)

class Space:
    make = staticmethod(make)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(SOURCE)
    (tmp_path / "torch.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return tmp_path


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("nothing is downloaded")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize(
    ("spec", "name", "outputs"),
    [
        ("timm:resnet18", "ResNet", 1000),
        ("timm:resnet18(num_classes=7)", "ResNet", 7),
        ("timm:resnet18.a1_in1k", "ResNet", 1000),
        ("timm:test_vit(img_size=32, num_classes=5)", "VisionTransformer", 5),
        ("torchvision:resnet18", "ResNet", 1000),
        ("torchvision:mobilenet_v2(num_classes=3)", "MobileNetV2", 3),
        ("resnet8", "ResNet", 10),
        ("resnet8(width=4)", "ResNet", 10),
    ],
)
def test_libraries_and_built_in(spec, name, outputs):
    model = load_model(spec)
    assert type(model).__name__ == name
    assert [m for m in model.modules() if isinstance(m, nn.Linear)][-1].out_features == outputs


def test_detectors_do_not_download_their_backbones():
    assert "FCN" in type(load_model("torchvision:fcn_resnet50(num_classes=2)")).__name__


@pytest.mark.parametrize(
    "spec", ["mine.py:make", "mine:make", "mine.py:Space.make", "./mine.py:make(width=9)", "mine:network"]
)
def test_own_code(folder, spec):
    model = load_model(spec)
    assert isinstance(model, nn.Linear)
    assert model.out_features == {"./mine.py:make(width=9)": 9, "mine:network": 6}.get(spec, 4)


def test_a_file_is_read_anew(folder):
    assert load_model("mine.py:make").out_features == 4
    (folder / "mine.py").write_text(SOURCE.replace("width=4", "width=5"))
    assert load_model("mine.py:make").out_features == 5
    assert load_model("mine.py:make").out_features == 5


def test_a_file_does_not_take_the_place_of_another_module(folder):
    assert load_model("torch.py:make").out_features == 4
    assert sys.modules["torch"] is torch


def test_weights_are_random():
    one, other = load_model("resnet8"), load_model("resnet8")
    assert not torch.equal(one.conv1.weight, other.conv1.weight)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("timm:resnt18", "unknown timm model 'resnt18'; did you mean 'timm:resnet18'?"),
        ("timm:resnet18.nope", "Invalid pretrained tag"),
        ("timm:resnet18(num_clases=3)", "num_clases"),
        ("timm:resnet18(pretrained=True)", "weights are random here"),
        ("timm:hf-hub:timm/resnet18", "unknown timm model"),
        ("torchvision:resnet81", "did you mean 'torchvision:resnet18'?"),
        ("torchvision:resnet18(weights='DEFAULT')", "weights are random here"),
        ("resnet18", "did you mean 'timm:resnet18'?"),
        ("resnet9", "did you mean 'resnet8'?"),
        ("resnet8(wdth=3)", "did you mean 'width'?"),
        ("resnet8(width='3')", "should be a valid integer"),
        ("resnet8(width=0)", "width=0 should be at least 1"),
        ("resnet8(3)", "should read name or name"),
        ("tim:resnet18", "there is no module 'tim'; did you mean 'timm'?"),
        ("mine.py:mak", "has no 'mak'; did you mean 'make'?"),
        ("mine:Space.mke", "has no 'mke'; did you mean 'make'?"),
        ("mine.py:", "should read package.module:name or file.py:name"),
        ("mine2.py:make", "there is no file 'mine2.py'; did you mean 'mine.py'?"),
        ("mine.sub:make", "mine"),
        ("", "unknown model ''"),
    ],
)
def test_no_typo_passes(folder, spec, words):
    with pytest.raises(SpecError) as caught:
        load_model(spec)
    assert words in str(caught.value)


def test_a_module_that_fails_says_why(folder):
    (folder / "bad.py").write_text("import not_there")
    for spec in ("bad.py:make", "bad:make"):
        with pytest.raises(SpecError, match=r"importing bad.* failed: ModuleNotFoundError: .* 'not_there'"):
            load_object(spec, kind="model")
