"""`prepare` gives a model the paper's initial values, and refuses what it cannot act on."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch import nn

import normlab
from normlab.errors import SpecError
from normlab.layers import BatchNorm
from normlab.recipes import InputNormalized
from normlab.seeding import Streams
from normlab.study.models import create_model
from normlab.surgery import norm_sites
from tests.unit.recipes.models import Odd, conv_net

STREAMS = Streams(1)


@pytest.mark.parametrize(("zero_scale", "value"), [("keep", 0.0), ("overwrite", 0.1)])
def test_zero_initialised_scales(zero_scale, value):
    model = conv_net()
    nn.init.zeros_(model.get_parameter("bn1.weight"))
    r = normlab.recipe(f"revisited(zero_scale='{zero_scale}')")
    plan = r.plan(model)
    assert (plan.set, plan.kept) == ((("bn0",), ("bn1",)) if value == 0 else (("bn0", "bn1"), ()))
    r.prepare(model)
    assert model.get_parameter("bn0.weight").eq(0.1).all()
    assert model.get_parameter("bn1.weight").eq(value).all()


def test_the_plan_can_be_printed():
    model = nn.Sequential(conv_net(), nn.BatchNorm1d(5, affine=False))
    nn.init.zeros_(model.get_parameter("0.bn1.weight"))
    plan = normlab.recipe("revisited").plan(model)
    assert str(plan) == "BatchNorm scales: 1 set, 1 zero-initialised and kept, 1 layers without one"


def test_shifts_statistics_and_other_norms():
    model = nn.Sequential(conv_net(), nn.LayerNorm(5))
    model(torch.randn(4, 3, 5, 5) + 3)
    nn.init.ones_(model.get_parameter("0.bn0.bias"))
    normlab.recipe("revisited").prepare(model, force=True)
    for name in ("0.bn0", "0.bn1"):
        bn = model.get_submodule(name)
        assert bn.bias.eq(0).all()
        assert bn.running_mean.eq(0).all()
        assert bn.running_var.eq(1).all()
        assert bn.num_batches_tracked == 0
    assert model.get_parameter("1.weight").eq(1).all()


@pytest.mark.parametrize(
    ("spec", "scale"), [("baseline", 1.0), ("lr_only", 1.0), ("init_only", 0.1), ("revisited(scale=0.5)", 0.5)]
)
def test_scales_of_each_recipe(spec, scale):
    model = normlab.recipe(spec).prepare(conv_net())
    found = [site.module.weight for site in norm_sites(model)]
    torch.testing.assert_close(found[0], torch.full((3,), scale * 0.58))
    assert all(weight.eq(torch.tensor(scale)).all() for weight in found[1:])


@pytest.mark.parametrize("formulation", ["a1", "a2"])
def test_formulations_start_as_the_standard_network(formulation):
    standard = normlab.recipe("revisited").prepare(conv_net(), streams=STREAMS)
    other = normlab.recipe(f"revisited(formulation='{formulation}')").prepare(conv_net(), streams=STREAMS)
    sites = norm_sites(other)
    assert [site.module.formulation for site in sites] == ["standard", formulation, formulation]
    x = torch.randn(4, 3, 5, 5)
    torch.testing.assert_close(other(x), standard(x), rtol=0, atol=0)
    synced = nn.Sequential(nn.Linear(3, 3), nn.SyncBatchNorm(3))
    layer = normlab.recipe(f"revisited(formulation='{formulation}')").prepare(synced)[1][1]
    assert (layer.formulation, layer.sync) == (formulation, True)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)
        self.bn = nn.BatchNorm2d(2)

    def forward(self, x: torch.Tensor, y: torch.Tensor, *, factor: float) -> torch.Tensor:
        return self.bn(self.conv(x)) * factor + y


def test_input_normalization_wraps_and_unwraps():
    model = TwoInputs().double().eval()
    wrapped = normlab.recipe("revisited").prepare(model)
    assert isinstance(wrapped, InputNormalized)
    assert list(wrapped.state_dict())[:2] == ["0.weight", "0.running_mean"]
    assert "1.conv.weight" in wrapped.state_dict()
    assert wrapped.unwrap() is model
    assert not wrapped.training
    assert wrapped[0].weight.dtype == torch.float64
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    plain = x * 0.058 / math.sqrt(1 + 1e-5)
    torch.testing.assert_close(wrapped(x, 1.0, factor=2.0), model(plain, 1.0, factor=2.0), rtol=0, atol=1e-9)


@pytest.mark.parametrize("given", [None, 3])
def test_input_channels(given):
    model = nn.Sequential(nn.Identity(), nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(7, 2))
    assert normlab.recipe("baseline").prepare(model, in_channels=given)[0].num_features == 3
    bare = nn.Sequential(nn.BatchNorm2d(5))
    assert normlab.recipe("baseline").prepare(bare, in_channels=5)[0].num_features == 5
    with pytest.raises(SpecError, match="pass in_channels, or use input_norm=False"):
        normlab.recipe("baseline").prepare(bare)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
@pytest.mark.parametrize("spec", ["revisited", "revisited(formulation='a2')"])
def test_prepared_models_copy_and_round_trip(spec, copied):
    model = normlab.recipe(spec).prepare(conv_net())
    x = torch.randn(4, 3, 5, 5)
    model(x)
    again = copied(model)
    fresh = normlab.recipe(spec).prepare(conv_net())
    fresh.load_state_dict(model.state_dict())
    expected = model.eval()(x)
    for other in (again, fresh):
        torch.testing.assert_close(other.eval()(x), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)),
            "Sequential has nothing to act on: it has no BatchNorm",
        ),
        (lambda: nn.BatchNorm1d(3, affine=False), "none of its 1 BatchNorm layers has a scale"),
        (lambda: nn.Sequential(nn.LazyConv2d(3, 1), nn.BatchNorm2d(3)), "0.weight has no shape yet"),
        (lambda: nn.Sequential(nn.LazyBatchNorm2d()), "0.weight has no shape yet"),
        (lambda: nn.Sequential(nn.Conv2d(3, 3, 1, device="meta"), nn.BatchNorm2d(3)), "on the meta device"),
        (lambda: normlab.recipe("baseline").prepare(conv_net()), "normalized already: prepare model.unwrap()"),
        (Odd, "weight of 'spectral' is computed"),
        (
            lambda: nn.Sequential(nn.Linear(3, 3), nn.utils.parametrizations.weight_norm(nn.BatchNorm1d(3), dim=None)),
            "weight of ParametrizedBatchNorm1d is computed",
        ),
    ],
)
def test_models_that_cannot_be_prepared_stay_as_they_are(build, message):
    model = build()
    before = copy.deepcopy(list(model.parameters())) if "no shape" not in message and "meta" not in message else []
    with pytest.raises(SpecError, match=message):
        normlab.recipe("revisited").prepare(model)
    for p, q in zip(before, model.parameters(), strict=False):
        assert torch.equal(p, q)


@pytest.mark.parametrize("buffer", ["running_mean", "running_var", "num_batches_tracked"])
def test_pretrained_models_are_refused_unless_forced(buffer):
    model = conv_net()
    model.get_submodule("bn1").get_buffer(buffer).fill_(3)
    with pytest.raises(SpecError, match=r"1 of 2 BatchNorm layers .*\(bn1, ...\).*force=True"):
        normlab.recipe("revisited").prepare(model)
    normlab.recipe("revisited").prepare(model, force=True)
    assert model.get_submodule("bn1").running_mean.eq(0).all()


def factors(scale: float, eps: float) -> list[torch.Tensor]:
    """γ / σ of every BatchNorm of a prepared resnet8 on one batch; Eq. 16."""
    r = normlab.recipe(f"revisited(scale={scale}, sigma_act=1)")
    model = r.prepare(create_model("resnet8(width=4)", in_channels=1, num_classes=3).double(), streams=STREAMS)
    found: list[torch.Tensor] = []
    for site in norm_sites(model):
        site.module.eps = eps
        site.module.register_forward_pre_hook(
            lambda bn, inputs: found.append(bn.weight.detach() / inputs[0].std((0, 2, 3), unbiased=False))
        )
    model(torch.randn(8, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    return found


@pytest.mark.parametrize("scale", [0.01, 0.1, 0.5])
def test_gradient_factor_of_a_resnet_does_not_depend_on_the_initial_scale(scale):
    ours, reference = factors(scale, eps=1e-30), factors(1.0, eps=1e-30)
    torch.testing.assert_close(ours[0], reference[0] * scale)  # on raw input nothing cancels
    for a, b in zip(ours[1:], reference[1:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=0)


def test_eps_is_what_remains_of_the_initial_scale():
    wide, narrow = factors(1.0, eps=1e-5), factors(0.1, eps=1e-5)
    worst = max((b / a - 1).abs().max().item() for a, b in zip(wide[1:], narrow[1:], strict=True))
    assert 1e-5 < worst < 0.05  # eps against a variance of some 0.01: small, and not nothing


def test_normlab_batch_norm_is_prepared_like_torchs():
    ours = nn.Sequential(nn.Conv2d(3, 4, 1), BatchNorm(4))
    theirs = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    r = normlab.recipe("revisited")
    a, b = (r.prepare(model, streams=STREAMS).state_dict() for model in (ours, theirs))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_features_last_are_not_normalized_as_if_they_were_first():
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.norm, self.out = nn.LSTM(5, 7, batch_first=True), nn.BatchNorm1d(7), nn.Linear(7, 2)

    with pytest.raises(SpecError, match="begin with a LSTM, whose input has its features last"):
        normlab.recipe("revisited").prepare(Tagger())
