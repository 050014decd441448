"""The numbers of a row against a direct computation, and which layers have rows in which order."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from normlab.inspect import inspect
from normlab.study.models import import_timm
from tests.conftest import TOLERANCE
from tests.unit.inspect.nets import Pair, images, small


def close(value, wanted):
    assert value == pytest.approx(float(torch.as_tensor(wanted).detach()), rel=1e-4, abs=TOLERANCE[torch.float32])


@pytest.fixture
def model():
    model = small()
    with torch.no_grad():
        for at in (1, 4):
            model[at].weight.copy_(1 + 0.3 * torch.randn(8))
            model[at].bias.copy_(0.2 * torch.randn(8))
    return model


def test_a_row_against_direct_computation(model):
    x = images()
    row = inspect(model, x).rows[1]
    bn = model[4]
    before = model[:4](x)
    before.retain_grad()
    after = torch.relu(bn(before))
    model[6:](after).square().mean().backward()
    var = before.var((0, 2, 3), correction=0)
    flat = nn.functional.normalize(after.flatten(1), dim=1)
    cosines = flat @ flat.T
    xhat = (before - before.mean((0, 2, 3), keepdim=True)) / (var + bn.eps).sqrt()[:, None, None]

    assert (row.name, row.type, row.shape, row.calls) == ("4", "BatchNorm2d", (8, 8, 8, 8), 1)
    close(row.sigma, var.sqrt().mean())
    close(row.gradient_factor, (bn.weight.abs() / (var + bn.eps).sqrt()).mean())
    close(row.large_values, (xhat.abs() > 6).float().mean())
    close(row.activation_variance, after.transpose(0, 1).flatten(1).var(1).mean())
    close(row.mean_cosine, (cosines.sum() - 8) / 56)
    close(row.stable_rank, 8 / torch.linalg.matrix_norm(cosines, 2))
    close(row.gradient_norm, before.grad.norm())
    close(row.weight.mean, bn.weight.mean())
    close(row.weight.spread, bn.weight.std(correction=0))
    close(row.weight.drift, (bn.weight - 1).mean())
    close(row.weight.largest, (bn.weight - 1).abs().max())
    close(row.bias.drift, bn.bias.mean())
    assert row.lag is None  # no batch has been counted


def test_a_fresh_model_has_not_drifted(model):
    for row in inspect(small(), images()).rows:
        assert row.weight.drift == row.weight.largest == row.bias.drift == 0
    fresh = small()
    nn.init.zeros_(fresh[1].weight)  # as at the end of branches
    nn.init.constant_(fresh[4].weight, 0.1)  # as recipes begin
    assert [row.weight.largest for row in inspect(fresh, images()).rows] == [0, 0]


def test_drifts_that_cancel_are_seen():
    model = small()
    with torch.no_grad():
        model[1].weight.add_(torch.tensor([0.5, -0.5] * 4))
    report = inspect(model, images())
    close(report.rows[0].weight.drift, 0.0)
    close(report.rows[0].weight.rms, 0.5)
    assert " 0.5 " in " ".join(line for line in str(report).splitlines() if line.startswith("1 "))
    assert "drift, rms over the channels" in " ".join(report.notes)


LOSSES = {
    "number": lambda model, x: model(x).abs().mean(),
    "dict of numbers": lambda model, x: {
        "a": (y := model(x)).abs().mean(),
        "b": y.exp().mean(),
        "seen": torch.ones([]),
    },
    "loss beside numbers": lambda model, x: {"loss": (y := model(x)).abs().mean(), "other": y.mean()},
}
DIRECT = {
    "number": lambda y: y.abs().mean(),
    "dict of numbers": lambda y: y.abs().mean() + y.exp().mean(),
    "loss beside numbers": lambda y: y.abs().mean(),
}


@pytest.mark.parametrize("case", LOSSES)
def test_a_loss_that_forward_gives_is_differentiated_and_not_its_square(model, case):
    x = images()
    report = inspect(model, x, forward=LOSSES[case])
    before = model[:4](x)
    wanted = torch.autograd.grad(DIRECT[case](model[4:](before)), before)[0].norm()
    close(report.rows[1].gradient_norm, wanted)
    assert report.notes[0].startswith("loss: the model's own")


@pytest.mark.parametrize("as_model", [False, True], ids=["state-dict", "model"])
def test_drift_from_given_values(model, as_model):
    start = small()
    nn.init.constant_(start[1].weight, 0.5)
    row = inspect(model, images(), initial=start if as_model else start.state_dict()).rows[0]
    close(row.weight.drift, (model[1].weight - 0.5).mean())
    state = {f"module.{key}": value for key, value in start.state_dict().items()}  # as DDP saves it
    assert inspect(model, images(), initial=state).rows[0] == row


def test_rows_stand_in_the_order_of_calls_and_those_not_called_at_the_end():
    report = inspect(Pair(), (images(), images()))
    norm, idle = report.rows
    assert (norm.name, norm.calls, idle.name, idle.calls, idle.shape) == ("norm", 2, "idle", 0, ())
    assert idle.sigma is None
    assert idle.missing["sigma"] == "the layer was not called"
    notes = " ".join(report.notes)
    assert "called more than once: norm (2x)" in notes
    assert "not called: idle" in notes


def test_a_norm_that_is_called_first_stands_first():
    class Late(nn.Module):
        def __init__(self):
            super().__init__()
            self.second, self.first = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.second(self.first(x))

    assert [row.name for row in inspect(Late(), images()).rows] == ["first", "second"]


def test_an_activation_in_the_layer_or_behind_it_counts_as_part_of_it():
    import_timm()
    from timm.layers import BatchNormAct2d

    x = images()
    row = inspect(BatchNormAct2d(3), x).rows[0]
    behind = inspect(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()), x).rows[0]
    assert row.type == "BatchNormAct2d"
    for name in ("sigma", "gradient_factor", "activation_variance", "mean_cosine", "stable_rank"):
        close(getattr(row, name), getattr(behind, name))
    assert behind.activation_variance < 0.4  # ReLU has taken two thirds


def test_without_norms_the_convolutions_and_linear_layers_are_measured():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 5))
    x = images()
    report = inspect(model, x)
    conv, linear = report.rows
    assert (conv.type, conv.shape, linear.type, linear.shape) == ("Conv2d", (8, 3, 12, 12), "Linear", (8, 400))
    close(conv.activation_variance, torch.relu(model[0](x)).transpose(0, 1).flatten(1).var(1).mean())
    assert conv.weight is None
    assert conv.sigma is None
    assert conv.missing["sigma"] == "it is no normalization layer"
    assert "no layer is known to normalize" in report.notes[0]


def test_a_frozen_model_has_no_gradients_and_a_half_frozen_one_has_them_behind():
    frozen = inspect(small().requires_grad_(False), images())
    assert all(row.gradient_norm is None for row in frozen.rows)
    assert "nothing that is trained reaches the outputs: there are no gradients" in frozen.notes
    model = small()
    model[:3].requires_grad_(False)
    first, second = inspect(model, images()).rows
    assert first.missing["gradient_norm"] == "nothing before it is trained, so no gradient is computed here"
    assert second.gradient_norm > 0


def test_running_means_that_lag_behind_are_a_remark_on_data_and_not_on_random_numbers():
    model = small()
    model(images() + 3)
    report = inspect(model, images() - 5)
    x = model[0](images() - 5).detach()
    bn = model[1]
    off = (x.mean((0, 2, 3)) - bn.running_mean) / (bn.running_var + bn.eps).sqrt()
    close(report.rows[0].lag, off.square().mean().sqrt())
    assert report.rows[0].marks["lag"] == "high"
    assert report.healthy
    assert "normlab.recalibrate(model, loader)" in str(report)
    assert inspect(model, "8x3x12x12").rows[0].lag is None


def test_one_example_has_no_cosine():
    row = inspect(small(), images(1)).rows[0]
    assert row.mean_cosine is None
    assert row.missing["mean_cosine"] == "it takes two examples"
    assert not row.marks


def test_labels_are_not_needed_and_the_loss_is_said():
    assert "loss: made up, the mean square of the outputs; no labels" in inspect(small(), images()).notes

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = small()

        def forward(self, x, labels):
            scores = self.net(x)
            return {"loss": nn.functional.cross_entropy(scores, labels), "scores": scores}

    model, labels = Own(), torch.arange(8) % 4
    report = inspect(model, {"x": images(), "labels": labels})
    assert "loss: the model's own" in report.notes
    before = model.net[:4](images()).detach().requires_grad_()
    nn.functional.cross_entropy(model.net[4:](before), labels).backward()
    close(report.rows[1].gradient_norm, before.grad.norm())


def test_gradients_that_are_all_zero_are_explained():
    model = small()
    nn.init.zeros_(model[8].weight)
    report = inspect(model, images())
    assert any("all gradients are 0" in note for note in report.notes)
    assert report.healthy
    assert math.isclose(report.rows[0].gradient_norm, 0)
