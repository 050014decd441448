"""Networks of timm and torchvision: converted to other norms and back, trained for a step, and put back to the bit."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normlab.errors import SpecError
from normlab.study.models import import_timm
from normlab.surgery import Site, convert, norm_sites
from tests.conftest import TOLERANCE

timm = import_timm()
import torchvision  # noqa: E402 - import_timm makes it importable
from torchvision.models.detection import FasterRCNN  # noqa: E402
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone  # noqa: E402

SIZE = {"swin_tiny_patch4_window7_224": 64}
TIMM_BATCH = [
    "resnet18", "resnet50", "resnext50_32x4d", "mobilenetv2_100", "mobilenetv3_small_100", "efficientnet_b0",
    "densenet121", "regnety_002", "repvgg_a0",
]  # fmt: skip
TIMM_LAYER = ["convnext_atto", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"]
TIMM_NORMLESS = [
    "nf_resnet26",
    "nf_regnet_b0",
    pytest.param("dm_nfnet_f0", marks=pytest.mark.slow),
]  # 14 and 68 million parameters


def of_timm(name: str) -> nn.Module:
    sized = {"img_size": SIZE.get(name, 32)} if name in ("vit_tiny_patch16_224", *SIZE) else {}
    return timm.create_model(name, num_classes=4, **sized)


def vgg16_bn() -> nn.Module:
    """With a small head: its own has 120 million parameters."""
    with torch.device("meta"):
        model = torchvision.models.vgg16_bn(init_weights=False)
        model.avgpool, model.classifier = nn.AdaptiveAvgPool2d(1), nn.Linear(512, 4)
    model.to_empty(device="cpu")
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return model


def deeplab() -> nn.Module:
    return torchvision.models.segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=4)


TORCHVISION: dict[str, Callable[[], nn.Module]] = {
    "torchvision_resnet18": lambda: torchvision.models.resnet18(num_classes=4),
    "torchvision_mobilenet_v2": lambda: torchvision.models.mobilenet_v2(num_classes=4),
    "vgg16_bn": vgg16_bn,
    "deeplabv3_resnet50": deeplab,
}


def build(name: str) -> tuple[nn.Module, Tensor]:
    """A network in training mode whose parameters are nowhere 0 and whose statistics are of data, and an input."""
    torch.manual_seed(0)
    model = TORCHVISION[name]() if name in TORCHVISION else of_timm(name)
    x = torch.randn(2, 3, SIZE.get(name, 32), SIZE.get(name, 32))
    with torch.no_grad():
        for parameter in model.parameters():  # a scale of 0 passes no gradient on
            parameter.add_(0.02 * torch.randn_like(parameter))
        model.train()(x)
    return model, x


def outputs(model: nn.Module, *args: Any) -> list[Tensor]:
    """All that the model gives in eval mode."""
    flags = [(module, module.training) for module in model.modules()]
    with torch.no_grad(), torch.random.fork_rng():
        found = torch.utils._pytree.tree_leaves(model.eval()(*args))
    for module, flag in flags:
        module.training = flag
    return [value.clone() for value in found if isinstance(value, Tensor)]


def equal(some: list[Tensor], others: list[Tensor]) -> bool:
    return len(some) == len(others) and all(map(torch.equal, some, others))


def close(some: list[Tensor], others: list[Tensor]) -> bool:
    """Up to rounding: what LayerNorm2d gives in another layout, the next convolution sums in another order."""
    near = functools.partial(torch.allclose, rtol=TOLERANCE[torch.float32], atol=TOLERANCE[torch.float32])
    return len(some) == len(others) and all(map(near, some, others))


def train_one_step(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor]) -> None:
    """Everything stays finite, and every parameter is trained, by this very optimizer."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model.train()
    loss().backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert id(parameter) in held, name
        assert parameter.isfinite().all(), name
        assert not torch.equal(parameter, before[name]), name


def loss_of(model: nn.Module, x: Tensor) -> Tensor:
    return sum(y.square().mean() for y in torch.utils._pytree.tree_leaves(model(x)))


def check(name: str, exact: list[Any], other: str, kinds: set[str], same: Callable[..., bool] = equal) -> None:
    """Convert without loss there and back, then with loss, train, and revert."""
    model, x = build(name)
    layers, y, state = list(model.modules()), outputs(model, x), copy.deepcopy(model.state_dict())
    records = []
    for spec in exact:
        records.append(convert(model, spec))
        assert all(change.exact_at_eval for change in records[-1].changes), spec
        assert same(outputs(model, x), y), spec
    assert set(model.state_dict()) == set(state)
    for record in reversed(records):
        record.revert()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    record = convert(model, other, sample=x, optimizer=optimizer)
    assert {site.kind for site in norm_sites(model)} == kinds
    assert record.difference is not None
    assert record.difference > 0
    twin = copy.deepcopy(model)
    assert equal(outputs(twin, x), outputs(model, x))
    record.revert()
    assert all(a is b for a, b in zip(model.modules(), layers, strict=True))
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert equal(outputs(model, x), y)
    convert(model, other, optimizer=optimizer)
    train_one_step(model, optimizer, functools.partial(loss_of, model, x))


@pytest.mark.parametrize("name", [*TIMM_BATCH, *TORCHVISION])
def test_networks_with_batch_norm(name):
    check(name, ["batch", nn.SyncBatchNorm, nn.BatchNorm2d], "group(num_groups=8, lower=True)", {"group"})


@pytest.mark.parametrize("name", TIMM_LAYER)
def test_networks_with_layer_norm(name):
    check(name, [nn.LayerNorm], "batch", {"batch"}, same=close)


@pytest.mark.parametrize("name", TIMM_LAYER)
def test_networks_with_layer_norm_take_group_norm(name):
    model, x = build(name)
    record = convert(model, "group(num_groups=8)", sample=x)
    loss_of(model, x).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    record.revert()


def of_the_same_maths(site: Site) -> bool:
    """timm's scaled standardized convolutions, but for those that pad according to the size of their input."""
    return "ScaledStdConv2d" in type(site.module).__name__ and not getattr(site.module, "same_pad", False)


@pytest.mark.parametrize("name", TIMM_NORMLESS)
def test_networks_without_norms(name):
    model, x = build(name)
    y, state = outputs(model, x), copy.deepcopy(model.state_dict())
    with pytest.raises(SpecError, match="no normalization layer that could become group"):
        convert(model, "group")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    own = functools.partial(convert, model, "scaled_weight_standardized", where=of_the_same_maths, optimizer=optimizer)
    record = own(sample=x)
    assert all(change.exact_at_eval for change in record.changes)
    assert record.difference < 1e-4 * max(float(value.abs().max()) for value in y)
    record.revert()
    assert equal(outputs(model, x), y)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    own()
    train_one_step(model, optimizer, functools.partial(loss_of, model, x))


@pytest.fixture
def torchvision_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for compiled operators that this torchvision may lack; slow, and for few boxes."""
    from torchvision.ops import boxes, poolers

    def nms(corners: Tensor, scores: Tensor, threshold: float) -> Tensor:
        left, kept = scores.argsort(descending=True), []
        while len(left):
            kept.append(left[0])
            left = left[1:][boxes.box_iou(corners[left[:1]], corners[left[1:]])[0] <= threshold]
        return torch.stack(kept) if kept else left

    def roi_align(x, rois, output_size, spatial_scale, **_):
        found = [x.new_zeros(0, x.shape[1], *output_size)]
        for image, *corners in rois.tolist():
            left, top, right, bottom = (int(value * spatial_scale) for value in corners)
            window = x[int(image)].narrow(1, top, max(1, min(bottom, x.shape[2]) - top))
            window = window.narrow(2, left, max(1, min(right, x.shape[3]) - left))
            found.append(nn.functional.adaptive_avg_pool2d(window, output_size)[None])
        return torch.cat(found)

    monkeypatch.setattr(boxes, "nms", nms)
    monkeypatch.setattr(poolers, "roi_align", roi_align)


def test_faster_rcnn_with_frozen_batch_norm(torchvision_operators):
    torch.manual_seed(0)
    frozen = torchvision.ops.FrozenBatchNorm2d
    backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, norm_layer=frozen, trainable_layers=5)
    few = {f"rpn_{when}_nms_top_n_{mode}": 4 for when in ("pre", "post") for mode in ("train", "test")}
    model = FasterRCNN(backbone, num_classes=3, min_size=32, max_size=32, box_batch_size_per_image=4, **few)
    for name, buffer in model.named_buffers():
        buffer.uniform_(0.5, 1.0) if "running_var" in name else buffer.add_(0.1 * torch.randn_like(buffer))
    images = [torch.rand(3, 32, 32), torch.rand(3, 32, 32)]
    targets = [{"boxes": torch.tensor([[5.0, 5.0, 25.0, 30.0]]), "labels": torch.tensor([1])} for _ in images]
    y, state = outputs(model, images), copy.deepcopy(model.state_dict())
    assert all(site.frozen for site in norm_sites(model))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.1)

    record = convert(model, "batch", optimizer=optimizer)
    assert all(change.exact_at_eval and "up to rounding" in change.note for change in record.changes)
    torch.testing.assert_close(outputs(model, images)[0], y[0], rtol=1e-3, atol=1e-3)
    convert(model, frozen).revert()
    record.revert()
    assert equal(outputs(model, images), y)
    record = convert(model, "group(num_groups=8)", sample=(images, targets), optimizer=optimizer)
    model.train()
    train_one_step(model, optimizer, lambda: sum(model(images, targets).values()))
    record.revert()
    model.load_state_dict(state)  # whose norms were never trained
    assert equal(outputs(model, images), y)
