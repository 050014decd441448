"""Every norm is folded, or left with the reason."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from normlab.errors import SpecError
from normlab.layers import CONVS, NORMS, BatchNorm
from normlab.surgery import fold, register_norm_type
from normlab.surgery.folding.channel_affine import ChannelAffine
from tests.unit.surgery.folding import FOLDED, LEFT, assert_folds, output, settled
from tests.unit.surgery.models import norm, timm


def test_every_norm_of_ours_is_either_folded_or_left():
    assert {spec.split("(")[0] for spec in [*FOLDED, *LEFT]} == set(NORMS)


@pytest.mark.parametrize("before", [True, False], ids=["conv", "alone"])
@pytest.mark.parametrize("spec", FOLDED)
def test_norms_that_are_affine_at_inference_are_folded(spec, before):
    torch.manual_seed(2)
    model = nn.Sequential(nn.Conv2d(4, 4, 3) if before else nn.ReLU(), norm(spec)).double()
    for _ in range(2):
        model(torch.randn(4, 4, 6, 6, dtype=torch.float64) + 1)
    folded = assert_folds(
        model.eval(), torch.randn(2, 4, 6, 6, dtype=torch.float64), **{"into" if before else "affine": 1}
    )
    assert before != isinstance(folded[1], ChannelAffine)


@pytest.mark.parametrize("spec", LEFT)
def test_norms_that_are_not_are_left_with_the_reason(spec):
    model = settled(nn.Sequential(nn.Conv2d(4, 4, 3), norm(spec), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    before = output(model, x)
    record = fold(model)
    assert LEFT[spec] in record.left["1"]
    assert LEFT[spec] in str(record)
    torch.testing.assert_close(output(model, x), before)
    if spec != "attentive":  # which has a norm inside
        with pytest.raises(SpecError, match=LEFT[spec]):
            fold(nn.Sequential(norm(spec)).eval())


def test_a_sparse_switchable_norm_that_has_selected_batch_norm():
    layer = norm("sparse_switch")
    with torch.no_grad():
        for logits in (layer.mean_logits, layer.var_logits):
            logits.copy_(torch.tensor([0.0, 0.0, 1.0]))
    layer.set_progress(1.0)
    model = nn.Sequential(nn.Conv2d(4, 4, 3), layer).double()
    model(torch.randn(4, 4, 5, 5, dtype=torch.float64))
    assert_folds(model.eval(), torch.randn(4, 4, 5, 5, dtype=torch.float64), into=1)


def test_groups_and_a_matrix_do_not_go_together():
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), norm("whitening")).double()
    model[1].whitening.add_(0.1)
    assert_folds(model.eval(), torch.randn(2, 4, 5, 5, dtype=torch.float64), affine=1)
    model = nn.Sequential(nn.ConvTranspose2d(4, 4, 3), norm("whitening")).double()
    model[1].whitening.copy_(torch.randn(4, 4))
    assert_folds(model.eval(), torch.randn(2, 4, 5, 5, dtype=torch.float64), into=1)


KERNELS = ["weight_standardized", "scaled_weight_standardized", "weight_norm", "weight_centered"]


@pytest.mark.parametrize("spec", KERNELS)
def test_computed_kernels_become_plain_ones(spec):
    conv = CONVS.create(spec, in_channels=3, out_channels=4, kernel_size=3, dtype=torch.float64)
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    folded = assert_folds(settled(nn.Sequential(conv, nn.BatchNorm2d(4))), x, into=1, plain=1)
    assert type(folded[0]) is nn.Conv2d
    assert type(assert_folds(copy.deepcopy(conv).eval(), x, plain=1)) is nn.Conv2d


@pytest.mark.parametrize("name", ["StdConv2d", "ScaledStdConv2d", "StdConv2dSame", "ScaledStdConv2dSame"])
def test_timms_standardized_convolutions_become_plain_ones(name):
    conv = getattr(timm().layers, name)(3, 4, 3, bias=True)
    x = torch.randn(2, 3, 7, 7, dtype=torch.float64)
    assert_folds(settled(nn.Sequential(conv, nn.BatchNorm2d(4))), x, into=1, plain=1)


def test_a_convolution_that_pads_by_its_input_is_left():
    layers = timm().layers
    model = settled(nn.Sequential(layers.ScaledStdConv2dSame(3, 4, 3, stride=2), nn.BatchNorm2d(4)))
    assert_folds(model, torch.randn(2, 3, 7, 7, dtype=torch.float64), affine=1, left=1)
    model = settled(nn.Sequential(layers.Conv2dSame(3, 4, 3, stride=2), nn.BatchNorm2d(4)))
    assert_folds(model, torch.randn(2, 3, 7, 7, dtype=torch.float64), into=1)


class Own(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).clamp(-0.1, 0.1)


class OwnBatch(BatchNorm):
    def forward(self, x, residual=None):
        return super().forward(x).clamp(-0.1, 0.1)


class Plain(nn.BatchNorm2d):
    """Another name, and nothing else."""


register_norm_type(Own, kind="batch")


def test_custom_norm_cannot_fuse_and_says_so():
    for cls in (Own, OwnBatch):
        with pytest.raises(SpecError, match="the model: its forward pass is its own, and not known to be affine"):
            fold(cls(4).eval())
    assert_folds(settled(nn.Sequential(nn.Conv2d(3, 4, 1), Plain(4))), torch.randn(2, 3, 5, 5).double(), into=1)
