"""The papers' networks of timm and torchvision: sizes, strides and parameters are those that the papers describe."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from normlab.errors import SpecError
from normlab.recipes import recipe
from normlab.seeding import Streams
from normlab.study.job import ModelSpec
from normlab.study.models import canonical_model, create_model, import_timm, model_facts

RESNET = [32, 32, 32, 16, 8, 4]  # at the stem, where the max-pool was, and after each stage
PAPERS = {  # parameters with 10 classes; places in the network → height of a 32×32 image there
    "timm:resnet18": (11_173_962, ["conv1", "maxpool", "layer1", "layer2", "layer3", "layer4"], RESNET),
    "timm:resnet34": (21_282_122, ["conv1", "maxpool", "layer1", "layer2", "layer3", "layer4"], RESNET),
    "timm:resnet50": (23_520_842, ["conv1", "maxpool", "layer1", "layer2", "layer3", "layer4"], RESNET),
    "timm:resnet101": (42_512_970, ["conv1", "maxpool", "layer1", "layer2", "layer3", "layer4"], RESNET),
    "timm:resnet152": (58_156_618, ["conv1", "maxpool", "layer1", "layer2", "layer3", "layer4"], RESNET),
    "timm:resnext50_32x4d": (22_992_714, ["conv1", "maxpool", "layer1", "layer2", "layer3", "layer4"], RESNET),
    "timm:mobilenetv2_100": (
        2_236_682,
        ["conv_stem", *(f"blocks.{i}" for i in range(7))],
        [32, 32, 32, 32, 16, 16, 8, 8],
    ),
    "timm:repvgg_a0": (7_840_874, ["stem", *(f"stages.{i}" for i in range(4))], [32, 32, 16, 8, 4]),
    "torchvision:resnet18": (11_173_962, ["conv1", "maxpool", "layer1", "layer2", "layer3", "layer4"], RESNET),
    "torchvision:mobilenet_v2": (
        2_236_682,
        ["features.0", "features.1", "features.3", "features.6", "features.10", "features.13", "features.16"],
        [32, 32, 32, 32, 16, 16, 8],
    ),
}


def build(name: str, stem: str = "cifar", in_channels: int = 3, num_classes: int = 10) -> nn.Module:
    return create_model(ModelSpec(name=name, stem=stem), in_channels=in_channels, num_classes=num_classes)


def heights(model: nn.Module, places: list[str], x: torch.Tensor) -> tuple[list[int], torch.Tensor]:
    seen: dict[str, int] = {}
    for place in places:
        model.get_submodule(place).register_forward_hook(
            lambda _module, _inputs, y, place=place: seen.__setitem__(place, y.shape[-1])
        )
    y = model(x)
    return [seen[place] for place in places], y


@pytest.mark.parametrize("name", PAPERS)
def test_a_batch_of_cifar_through_each(name):
    parameters, places, expected = PAPERS[name]
    model = build(name)
    assert sum(p.numel() for p in model.parameters()) == parameters
    found, y = heights(model, places, torch.randn(2, 3, 32, 32))
    assert found == expected
    assert y.shape == (2, 10)
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", ["timm:resnet18", "timm:resnet50", "timm:mobilenetv2_100", "timm:repvgg_a0"])
@pytest.mark.parametrize(("chosen", "scale"), [("baseline", 1.0), ("revisited(scale=0.1)", 0.1)])
def test_initial_values_are_the_papers_whatever_the_library_draws(name, chosen, scale):
    """timm starts RepVGG's scales near 0.1 at random, and the last of each residual block at 0 if it may."""
    model = recipe(chosen).prepare(build(name), streams=Streams(1), in_channels=3)
    for place, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d) and module.num_features > 3:
            assert torch.equal(module.weight, torch.full_like(module.weight, scale)), place
            assert not module.bias.any(), place
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 10_000:
            fan_in = module.weight[0].numel()
            assert module.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.05), place


def test_no_scale_starts_at_0_before_the_recipe_either():
    ours, theirs = build("timm:resnet18", stem="own"), import_timm().create_model("resnet18")
    assert sum(not m.weight.any() for m in theirs.modules() if isinstance(m, nn.BatchNorm2d)) == 8
    assert all(m.weight.all() for m in ours.modules() if isinstance(m, nn.BatchNorm2d))
    asked = build("timm:resnet18(zero_init_last=True)", stem="own")
    assert sum(not m.weight.any() for m in asked.modules() if isinstance(m, nn.BatchNorm2d)) == 8


def test_a_repvgg_block_of_stride_1_has_its_third_branch():
    assert build("timm:repvgg_a0").stages[0][0].identity is not None
    assert build("timm:repvgg_a0", stem="own").stages[0][0].identity is None


@pytest.mark.parametrize("name", ["timm:resnet18", "torchvision:resnet18", "timm:test_vit(img_size=32)"])
def test_other_channels_and_classes(name):
    model = build(name, stem="own", in_channels=1, num_classes=7)
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize("name", ["timm:resnet18", "torchvision:resnet18"])
def test_grey_images_with_the_small_stem(name):
    model = build(name, in_channels=1)
    assert model.conv1.weight.shape == (64, 1, 3, 3)
    assert model(torch.randn(2, 1, 28, 28)).shape == (2, 10)


def test_the_library_is_recorded_with_its_version():
    assert model_facts(ModelSpec(name="timm:resnet18")) == {"timm": import_timm().__version__}
    assert set(model_facts(ModelSpec(name="torchvision:resnet18"))) == {"torchvision"}
    assert model_facts(ModelSpec(name="resnet8(width=4)")) == {}


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("resnet8", "resnet8(width=16)"),
        (" timm:resnet18 ", "timm:resnet18"),
        ("timm:resnet18( drop_rate=0.5,act_layer='relu')", "timm:resnet18(act_layer='relu', drop_rate=0.5)"),
    ],
)
def test_equal_networks_read_the_same(name, canonical):
    assert canonical_model(ModelSpec(name=name)) == ModelSpec(name=canonical)


FACTORY = """
from torch import nn

def width():
    return 4

def make(num_classes, extra=0):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(width() + extra), nn.Linear(width() + extra, num_classes))

class Net(nn.Sequential):
    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(in_channels * 4, num_classes))

network = Net(1, 2)
number = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "nets.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["nets.py:make", "nets.py:make(extra=2)", "nets.py:Net"])
def test_a_factory_is_given_what_it_takes(folder, name):
    model = build(name, stem="own", num_classes=6)
    assert model(torch.randn(2, 3, 2, 2)).shape == (2, 6)


def test_a_factory_with_other_code_is_another_network(folder):
    before = canonical_model(ModelSpec(name="nets.py:make"))
    assert before.source is not None
    assert before == canonical_model(ModelSpec(name="nets.py:make"))
    (folder / "nets.py").write_text(FACTORY.replace("return 4", "return 5"))  # what `make` calls counts too
    after = canonical_model(ModelSpec(name="nets.py:make"))
    assert after.name == before.name
    assert after.source != before.source


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (ModelSpec(name="timm:resnt18"), "did you mean 'timm:resnet18'?"),
        (ModelSpec(name="timm:resnet18(num_classes=10)"), "leave out num_classes, which the data decide"),
        (ModelSpec(name="timm:resnet18(in_chans=1)"), "leave out in_chans"),
        (ModelSpec(name="timm:resnet18(pretrained=True)"), "weights are random here"),
        (ModelSpec(name="timm:resnet18(no_such=1)"), "no_such"),
        (ModelSpec(name="torchvision:resnet81"), "did you mean 'torchvision:resnet18'?"),
        (ModelSpec(name="timm:test_vit", stem="cifar"), "stem = 'cifar' is known for ResNets"),
        (ModelSpec(name="timm:resnet18d", stem="cifar"), "stem = 'cifar' is known for ResNets"),
        (ModelSpec(name="torchvision:densenet121", stem="cifar"), "and not for 'densenet121'"),
        (ModelSpec(name="resnet8", stem="cifar"), "this one is as its code says"),
        (ModelSpec(name="nets.py:make", stem="cifar"), "this one is as its code says"),
        (ModelSpec(name="nets.py:make(num_classes=3)"), "leave out num_classes"),
        (ModelSpec(name="nets.py:network"), "which one run would leave trained to the next"),
        (ModelSpec(name="nets.py:number"), "should be a function or a class of networks, not 3"),
        (ModelSpec(name="nets.py:width"), "made int, and no torch module"),
        (ModelSpec(name="nets.py:mak"), "did you mean 'make'?"),
        (ModelSpec(name="resnet18"), "did you mean 'timm:resnet18'?"),
    ],
    ids=lambda value: value.name if isinstance(value, ModelSpec) else "",
)
def test_networks_that_cannot_be(folder, spec, words):
    with pytest.raises(SpecError) as caught:
        create_model(spec, in_channels=3, num_classes=10)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
