"""Built-in networks have the shapes and names they promise."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from normlab.errors import SpecError, UnknownName
from normlab.study.models import MODELS, ResNet, create_model
from tests.golden import load


@pytest.mark.parametrize("spec", list(MODELS))
@pytest.mark.parametrize(("in_channels", "num_classes", "size"), [(1, 10, 8), (3, 7, 9)])
def test_images_to_class_scores(spec, in_channels, num_classes, size):
    model = create_model(spec, in_channels=in_channels, num_classes=num_classes)
    x = torch.randn(2, in_channels, size, size)
    y = model(x)
    assert y.shape == (2, num_classes)
    y.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_resnet8_width_and_names():
    model = create_model("resnet8(width=4)", in_channels=1, num_classes=10)
    convolutions = {n: m.out_channels for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    assert convolutions == {
        "conv1": 4,
        "layer1.0.conv1": 4,
        "layer1.0.conv2": 4,
        "layer2.0.conv1": 8,
        "layer2.0.conv2": 8,
        "layer2.0.downsample.0": 8,
        "layer3.0.conv1": 16,
        "layer3.0.conv2": 16,
        "layer3.0.downsample.0": 16,
    }
    assert sum(p.numel() for p in create_model("resnet8", in_channels=1, num_classes=10).parameters()) == 77754


def test_resnet18_has_the_names_and_shapes_of_torchvision():
    rows = load("param_groups_torchvision_resnet18").meta["all_parameters"]
    model = ResNet(3, rows[-1][1][0], blocks=(2, 2, 2, 2), width=64)
    ours = [(name, list(p.shape)) for name, p in model.named_parameters()]
    theirs = [(name, shape) for name, shape, _ in rows]
    assert ours[0] == ("conv1.weight", [64, 3, 3, 3])  # the stem for small images; theirs is 7x7
    assert ours[1:] == theirs[1:]


def test_a_block_leaves_its_input_alone():
    model = create_model("resnet8(width=4)", in_channels=1, num_classes=3).eval()
    x = torch.randn(2, 4, 8, 8)
    before = x.clone()
    block = model.get_submodule("layer1.0")
    first = block(x)
    assert torch.equal(x, before)
    assert torch.equal(block(x), first)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("resnet9", UnknownName, "unknown model 'resnet9'; did you mean 'resnet8'"),
        ("resnet8(widht=4)", UnknownName, "did you mean 'width'"),
        ("resnet8(width=0)", SpecError, "width=0 should be at least 1"),
        ("resnet8(width='a')", SpecError, "width='a'"),
    ],
)
def test_models_that_cannot_be(spec, error, message):
    with pytest.raises(error, match=message):
        create_model(spec, in_channels=1, num_classes=10)
