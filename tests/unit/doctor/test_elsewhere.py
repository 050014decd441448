"""Rules about devices and libraries that are not here, and models on other devices."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import normlab
from normlab.doctor.case import Case
from normlab.doctor.rules import mps_channels_last
from tests.unit.doctor import cases
from tests.unit.doctor.cases import images, reached, resnet


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(4), nn.GroupNorm(2, 4)], ids=["batch", "group"])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=str)
@pytest.mark.parametrize("device", ["mps", "cpu"])
@pytest.mark.parametrize("error", [13.0, math.inf, 1e-6])
def test_mps_is_judged_by_device_layout_and_gradients(monkeypatch, norm, layout, device, error):
    monkeypatch.setattr(mps_channels_last, "gradient_error", lambda _: error)  # there is none here: it is only said
    model = nn.Sequential(nn.Conv2d(3, 4, 3), norm).to(memory_format=layout)
    found = normlab.doctor.RULES["NL024"].check(Case(model, device=torch.device(device)))
    wrong = device == "mps" and layout is torch.channels_last and isinstance(norm, nn.BatchNorm2d) and error > 1
    assert (found is not None) == wrong
    if found is not None:
        assert ("gradients fail in" if error == math.inf else "gradients are off by 1.3e+03 % in") in found.text


@pytest.mark.parametrize("name", ["LayerNorm", "scaler"])
@pytest.mark.parametrize("version", ["4.46.3", "4.57.1", "5.1.0", "5.3.0"])  # from_pretrained of each was tried
def test_names_are_judged_by_the_version_of_transformers(monkeypatch, name, version):
    model = cases.pretrained(name)
    monkeypatch.setattr("importlib.metadata.version", lambda _: version)
    found = normlab.doctor(model, select="NL028")
    lost = {"4.46.3": True, "4.57.1": name == "LayerNorm", "5.1.0": name == "LayerNorm", "5.3.0": False}[version]
    assert bool(found) == lost
    if lost:
        assert found.findings[0].text == f"transformers {version[:-2]} renames 2 tensors as it loads them"
        assert found.findings[0].layers == (f"{name}.gamma", f"{name}.beta")


def test_the_layout_does_not_change_gradients_on_the_cpu():
    assert mps_channels_last.gradient_error(torch.device("cpu")) < 1e-5


@pytest.mark.gpu
def test_a_model_on_another_device_and_a_batch_that_is_not():
    model = resnet().cuda()
    assert reached(normlab.doctor(model, images()))
    model = resnet()
    assert reached(normlab.doctor(model, images(), device="cuda"))
    assert next(model.parameters()).device.type == "cpu"
