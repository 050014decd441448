"""Built-in networks have the shapes and names they promise."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from normlab.errors import SpecError, UnknownName
from normlab.study.models import MODELS, ResNet, create_model
from tests.golden import load

SMALLER = {"resnet56": "resnet56(width=2)", "vgg": "vgg(width=4)", "wide_resnet": "wide_resnet(depth=10, width=1)"}
FURTHER = ["resnet20(shortcut='none')", "resnet20(shortcut='projection')", "resnet20(shortcut='conv3x3')"]


@pytest.mark.parametrize("spec", [*(SMALLER.get(name, name) for name in MODELS), *FURTHER])
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


@pytest.mark.parametrize(
    ("spec", "millions"),
    [
        ("resnet20", 0.27),  # He et al., table 6
        ("resnet56", 0.85),
        ("wide_resnet", 36.5),  # Zagoruyko and Komodakis, tables 4 and 5
        ("wide_resnet(depth=16, width=8)", 11.0),
        ("wide_resnet(depth=40, width=4)", 8.9),
        ("vgg", 9.4),  # of the layers in Lubana et al., config.py
        ("vgg(depth=20)", 13.3),
    ],
)
def test_as_many_parameters_as_the_paper_says(spec, millions):
    with torch.device("meta"):
        model = create_model(spec, in_channels=3, num_classes=10)
    places = 2 if millions < 1 else 1
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, places) == millions


@pytest.mark.parametrize(
    ("depth", "strided", "widths"),
    [
        (10, [2, 4, 6, 8], [64] * 2 + [128] * 2 + [256] * 2 + [512] * 4),
        (20, [4, 8, 12, 16], [64] * 4 + [128] * 4 + [256] * 8 + [512] * 4),
        (40, [8, 16, 24, 32], [64] * 8 + [128] * 8 + [256] * 8 + [512] * 16),
    ],
)
def test_plain_networks_are_those_of_beyond_batchnorm(depth, strided, widths):
    with torch.device("meta"):
        model = create_model(f"vgg(depth={depth})", in_channels=3, num_classes=100)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == widths
    assert [i for i, c in enumerate(convolutions, 1) if c.stride == (2, 2)] == strided


def test_the_identity_shortcut_adds_no_parameters_and_the_input_itself():
    block = ResNet(3, 5, blocks=(1, 1), width=4, shortcut="identity").get_submodule("layer2.0")
    assert not list(block.downsample.parameters())
    x = torch.rand(2, 4, 6, 6)
    carried = block.downsample(x)
    assert torch.equal(carried[:, :4], x[..., ::2, ::2])
    assert carried.shape == (2, 8, 3, 3)
    assert not carried[:, 4:].any()


def test_without_shortcuts_the_input_does_not_get_past_a_block():
    model = create_model("resnet20(shortcut='none')", in_channels=3, num_classes=4)
    with torch.no_grad():
        for block in model.layer2:
            block.bn2.weight.zero_()
            block.bn2.bias.zero_()
        a, b = (model(torch.randn(3, 3, 8, 8)) for _ in range(2))
    assert torch.equal(a, b)


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
        ("resnet20(shortcut='no')", SpecError, "shortcut='no'"),
        ("vgg(depth=16)", SpecError, "depth=16"),
        ("vgg(width=0)", SpecError, "width=0 should be at least 1"),
        ("wide_resnet(depth=27)", SpecError, r"depth=27 should be 10, 16, 22, 28"),
        ("wide_resnet(dropout=1.0)", SpecError, r"dropout=1.0 should be in \[0, 1\)"),
    ],
)
def test_models_that_cannot_be(spec, error, message):
    with pytest.raises(error, match=message):
        create_model(spec, in_channels=1, num_classes=10)
