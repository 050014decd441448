"""A folded model gives what it gave before."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from normlab.errors import SpecError
from normlab.surgery import convert, fold
from normlab.surgery.folding.channel_affine import ChannelAffine
from tests.unit.surgery.folding import RTOL, assert_folds, output, settled
from tests.unit.surgery.models import timm

MODELS = {
    "resnet18": {"into": 20},
    "mobilenetv2_100": {"into": 52},
    "densenet121": {"into": 59, "affine": 62},
    "repvgg_a0": {"into": 44, "affine": 17},
    "torchvision vgg16_bn": {"into": 13},
    "torchvision densenet121": {"into": 59, "affine": 62},
}


@pytest.mark.parametrize("name", MODELS)
def test_real_models_give_what_they_gave(name):
    timm()
    model = network(name)
    for dtype in RTOL:
        x = torch.randn(1, 3, 64, 64, dtype=dtype)
        folded = assert_folds(settled(copy.deepcopy(model), dtype), x, **MODELS[name])
        assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in folded.modules())


def network(name: str) -> nn.Module:
    if not name.startswith("torchvision"):
        return timm().create_model(name)
    import torchvision

    if name.endswith("densenet121"):
        return torchvision.models.densenet121(weights=None)
    with torch.device("meta"):
        model = torchvision.models.vgg16_bn(weights=None, init_weights=False)
    model.classifier = nn.Flatten()  # which has 90 % of the weights, and no norm
    model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.05)
    return model


def test_activation_and_drop_of_timms_norms_stay():
    layers = timm().layers
    for cls, counts in ((layers.BatchNormAct2d, {"into": 1}), (layers.FrozenBatchNormAct2d, {"into": 1})):
        model = settled(nn.Sequential(nn.Conv2d(3, 4, 3), cls(4)))
        folded = assert_folds(model, torch.randn(2, 3, 5, 5, dtype=torch.float64), **counts)
        assert isinstance(folded[1].act, nn.ReLU)
        assert isinstance(folded[1].drop, nn.Identity)
    sync = layers.convert_sync_batchnorm(nn.Sequential(nn.Conv2d(3, 4, 3), layers.BatchNormAct2d(4)))
    assert_folds(settled(sync), torch.randn(2, 3, 5, 5, dtype=torch.float64), into=1)


def test_timms_norms_after_conversion_keep_their_activation():
    model = settled(nn.Sequential(nn.Conv2d(3, 4, 3), timm().layers.BatchNormAct2d(4)))
    convert(model, "batch")
    folded = assert_folds(model, torch.randn(2, 3, 5, 5, dtype=torch.float64), into=1)
    assert isinstance(folded[1].act, nn.ReLU)


def test_torchvisions_frozen_batch_norm():
    timm()
    from torchvision.ops import FrozenBatchNorm2d

    model = settled(nn.Sequential(nn.Conv2d(3, 4, 3), FrozenBatchNorm2d(4)))
    assert_folds(model, torch.randn(2, 3, 5, 5, dtype=torch.float64), into=1)


BEFORE = {
    "conv1d": (nn.Conv1d(3, 4, 3), 1),
    "conv2d depthwise": (nn.Conv2d(4, 4, 3, groups=4, bias=False, padding="same", padding_mode="reflect"), 2),
    "conv2d groups": (nn.Conv2d(4, 8, (3, 1), groups=2, stride=2, padding=1, dilation=2), 2),
    "conv3d": (nn.Conv3d(2, 4, 2), 3),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1, bias=False), 2),
    "transposed groups": (nn.ConvTranspose2d(4, 6, 3, groups=2, padding=1), 2),
    "transposed depthwise": (nn.ConvTranspose1d(4, 4, 3, groups=4), 1),
    "linear": (nn.Linear(3, 4), 0),
    "linear without bias": (nn.Linear(3, 4, bias=False), 0),
}


@pytest.mark.parametrize("name", BEFORE)
def test_whatever_is_before(name):
    layer, dims = copy.deepcopy(BEFORE[name])
    linear = isinstance(layer, nn.Linear)
    width, inner = (layer.out_features, 3) if linear else (layer.out_channels, layer.in_channels)
    bn = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}.get(dims, nn.BatchNorm1d)
    x = torch.randn(2, inner, *[7] * dims, dtype=torch.float64)
    folded = assert_folds(settled(nn.Sequential(layer, bn(width))), x, into=1)
    assert type(folded[1]).__name__ == ("Rows" if linear else "Identity")


def test_a_linear_layer_folded_for_rows_refuses_sequences():
    model = settled(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)))
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    model(x)  # channels in dimension 1, and the Linear has them last
    fold(model)
    with pytest.raises(SpecError, match=r"folded into a Linear for inputs \[N, C\]; got \[2, 4, 4\]"):
        model(x)


def test_a_norm_at_the_root_becomes_another_model():
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    assert isinstance(assert_folds(settled(nn.BatchNorm2d(4)), x, affine=1), ChannelAffine)


def test_layout_and_trained_flags_are_kept():
    model = settled(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), torch.float32)
    model = model.to(memory_format=torch.channels_last)
    model[0].weight.requires_grad_(False)
    fold(model)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert not model[0].weight.requires_grad
    assert not any(module.training for module in model.modules())


def test_training_mode_and_missing_statistics_are_errors_and_no_assertions():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    with pytest.raises(SpecError, match=r"the model is in training mode.*call model\.eval\(\) first"):
        fold(model)
    model.eval()[1].train()
    with pytest.raises(SpecError, match="1 is in training mode"):
        fold(model)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    with pytest.raises(SpecError, match=r"there is nothing to fold\. 1: it keeps no running statistics"):
        fold(model)
    with pytest.raises(SpecError, match="The model has no normalization layer"):
        fold(nn.Linear(2, 2).eval())
    with pytest.raises(SpecError, match="has no shape yet"):
        fold(nn.Sequential(nn.LazyConv2d(4, 3), nn.BatchNorm2d(4)).eval())


def test_tracing_leaves_no_trace():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.last, self.calls = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), None, 0

        def forward(self, x):
            self.last, self.calls = x, self.calls + 1
            return self.body(x)

    seen = []
    model = settled(Counting())
    model.register_forward_pre_hook(lambda module, args: seen.append(args))
    fold(model)
    assert (model.last, model.calls, seen) == (None, 0, [])


def test_a_compiled_model_takes_it_up():
    model = settled(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    compiled, x = torch.compile(model, backend="eager"), torch.randn(2, 3, 5, 5, dtype=torch.float64)
    before = output(compiled, x)
    assert fold(compiled).model is model
    torch.testing.assert_close(output(compiled, x), before)


def test_the_record_reads():
    model = settled(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.GroupNorm(2, 4)))
    assert str(fold(model)).splitlines() == [
        "1  in 0",
        "2  scale and shift",
        "3  left: it normalizes each example by the example's own moments",
    ]
