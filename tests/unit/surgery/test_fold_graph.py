"""Only that is scaled which a norm alone takes, whatever the forward pass does with it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from normlab.errors import SpecError
from normlab.layers import BatchNorm
from normlab.surgery import fold
from tests.unit.surgery.folding import assert_folds, output, settled
from tests.unit.surgery.models import state


class Net(nn.Module):
    """What a forward pass does with a convolution and a norm, by name."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv, self.other = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.bn, self.after = BatchNorm(4, activation="relu"), nn.BatchNorm2d(4)

    def forward(self, x):
        return NETS[self.kind][0](self, x, self.conv(x))


NETS = {
    "output used twice": (lambda net, x, y: net.bn(y) + y, {"affine": 2}),
    "two norms": (lambda net, x, y: net.bn(y) + net.after(y), {"affine": 2}),
    "shared convolution": (lambda net, x, y: net.bn(y) + net.conv(x + 1), {"affine": 2}),
    "shared pair": (lambda net, x, y: net.bn(y) + net.bn(net.conv(x + 1)), {"into": 1, "affine": 1}),
    "shared norm": (lambda net, x, y: net.bn(y) + net.bn(net.other(x)), {"into": 1, "affine": 1}),
    "shared norm, other input": (lambda net, x, y: net.bn(y) + net.bn(x), {"affine": 2}),
    "residual": (lambda net, x, y: net.bn(y, x), {"affine": 2}),
    "keyword": (lambda net, x, y: net.bn(x=y), {"affine": 2}),
    "weight used": (lambda net, x, y: net.bn(y) * net.conv.weight.sum(), {"affine": 2}),
    "norm before": (lambda net, x, y: net.other(net.bn(x)) + y, {"affine": 2}),
    "function between": (lambda net, x, y: net.bn(y.relu()), {"affine": 2}),
}


@pytest.mark.parametrize("kind", NETS)
def test_only_what_a_norm_alone_uses_is_scaled(kind):
    assert_folds(settled(Net(kind)), torch.randn(2, 4, 5, 5, dtype=torch.float64), **NETS[kind][1])


class Untraceable(nn.Module):
    """As detectors are: loops over data. Its parts are not called in the order in which they stand."""

    def __init__(self, whole: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.whole = whole

    def forward(self, x):
        if x.sum() > 1e9:
            return x
        conv, bn, _ = self.body
        return self.body(x) if self.whole else bn(conv(x)) + conv(x)


def test_a_model_that_cannot_be_traced_is_folded_part_by_part():
    assert_folds(settled(Untraceable(True)), torch.randn(2, 3, 5, 5, dtype=torch.float64), into=1)


def test_a_sample_shows_that_parts_are_called_apart_and_all_is_undone():
    model, x = settled(Untraceable(False)), torch.randn(2, 3, 5, 5, dtype=torch.float64)
    before, y, held = state(model), output(model, x), list(model.modules())
    with pytest.raises(SpecError, match=r"gives other outputs for the sample, .* Nothing was changed"):
        fold(model, sample=x)
    assert list(model.modules()) == held
    assert state(model).keys() == before.keys()
    torch.testing.assert_close(output(model, x), y, rtol=0, atol=0)
    whole = settled(Untraceable(True))
    assert fold(whole, sample=(x,)).difference < 1e-9


class WithPart(nn.Conv2d):
    """A convolution that uses another one in a way that no graph shows."""

    def __init__(self):
        super().__init__(4, 4, 1)
        self.part = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return super().forward(self.part(x))


class PartApart(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn = WithPart(), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.conv(x) + self.bn(self.conv.part(x))


def test_what_is_called_out_of_sight_is_not_scaled():
    assert_folds(settled(PartApart()), torch.randn(2, 4, 5, 5, dtype=torch.float64), affine=1)


def test_hooks_see_what_they_saw():
    x, seen = torch.randn(2, 3, 5, 5, dtype=torch.float64), []
    model = settled(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
    model[0].register_forward_hook(lambda module, args, y: seen.append(y))
    model[3].register_forward_hook(lambda module, args, y: y + 1)
    before = output(model, x)
    record = fold(model)
    assert record.folded == {"1": ()}
    assert record.left == {"3": "it has hooks, which would see other values"}
    torch.testing.assert_close(output(model, x), before)
    torch.testing.assert_close(seen[0], seen[1], rtol=0, atol=0)


def test_a_weight_that_is_computed_is_not_written_to():
    model = settled(nn.Sequential(parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4)))
    assert_folds(model, torch.randn(2, 3, 5, 5, dtype=torch.float64), affine=1)
    model = settled(nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4)))
    assert_folds(model, torch.randn(2, 3, 5, 5, dtype=torch.float64), affine=1)


def test_tied_weights_are_not_scaled_twice():
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    model[2].weight = model[0].weight
    assert_folds(settled(model), torch.randn(2, 4, 7, 7, dtype=torch.float64), into=2)


@pytest.mark.parametrize(
    "sample", [3, torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 8, 8, device="meta")], ids=["int", "channels", "meta"]
)
def test_a_sample_that_the_model_does_not_take_is_named(sample):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    with pytest.raises(SpecError, match="the model does not take the sample, before anything was changed: "):
        fold(model, sample=sample)
    assert isinstance(model[1], nn.BatchNorm2d)
