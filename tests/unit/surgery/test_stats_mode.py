"""Inside `stats_mode` norms use the statistics that were asked for, and nothing that they remember moves."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from normlab.errors import SpecError, UnknownName
from normlab.layers import NORMS, BatchNorm
from normlab.surgery import freeze, stats_mode
from tests.conftest import TOLERANCE
from tests.unit.surgery.models import SPECS, Biased, assert_state, data, norm, state, timm

ATOL = TOLERANCE[torch.float64] * 10


def trained(spec: str) -> nn.Module:
    layer = norm(spec)
    for batch in data(4, 4):
        layer(batch)
    return layer


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("spec", [s for s in SPECS if s not in ("noisy", "batch_renorm", "whitening", "sparse_switch")])
def test_by_the_batch_is_as_in_training(spec, training):
    layer, (x,) = trained(spec), data(4)
    expected, before = copy.deepcopy(layer).train()(x), state(layer)
    layer.train(training)
    with stats_mode(layer, "batch"):
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=0)
    assert_state(layer, before)
    assert layer.training is training


@pytest.mark.parametrize("spec", ["noisy", "batch_renorm"])
def test_by_the_batch_without_noise_and_corrections(spec):
    layer, (x,) = trained(spec), data(4)
    plain = BatchNorm(4, dtype=torch.float64)
    plain.load_state_dict(layer.state_dict())
    random = torch.random.get_rng_state()
    with stats_mode(layer.eval(), "batch"):
        torch.testing.assert_close(layer(x), plain(x), rtol=0, atol=ATOL)
    assert torch.equal(torch.random.get_rng_state(), random)


def test_by_the_batch_nothing_is_selected_and_no_matrix_moves():
    for spec in ("sparse_switch", "whitening"):
        layer = trained(spec)
        if spec == "sparse_switch":
            layer.set_progress(1.0)
        before = state(layer)
        with stats_mode(layer, "batch"):
            layer(data(4)[0])
        assert_state(layer, before)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("spec", SPECS)
def test_by_the_running_statistics_is_as_in_eval_mode(spec, training):
    layer, (x,) = trained(spec), data(4)
    expected, before = copy.deepcopy(layer).eval()(x), state(layer)
    layer.train(training)
    with stats_mode(layer, "running"):
        layer.train()
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=0)
    assert_state(layer, before)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("spec", SPECS)
def test_a_mixture_is_of_running_statistics_and_those_of_the_batch(spec, share):
    layer, (x,) = trained(spec), data(4)
    before = state(layer)
    with stats_mode(layer, f"mix({share})"):
        y = layer(x)
    assert_state(layer, before)
    if share == 0.0:
        torch.testing.assert_close(y, layer.eval()(x), rtol=0, atol=ATOL)
        return
    if spec.startswith(("batch", "iebn", "rbn_minus", "variance", "mean_only")) and spec != "batch_renorm":
        other = copy.deepcopy(layer).eval()
        for name in other.TRACKED:
            own = other.running(name)
            var, mean = torch.var_mean(x, (0, 2, 3), correction=int(other.stored_var == "unbiased"))
            newest = mean if name == "running_mean" else var
            other.get_buffer(name).copy_((1 - share) * own + share * newest)
        other.debias = False
        torch.testing.assert_close(y, other(x), rtol=0, atol=ATOL)


@pytest.mark.parametrize("make", [nn.BatchNorm2d, lambda c: nn.BatchNorm2d(c, momentum=None), nn.SyncBatchNorm])
def test_torchs_layers_too(make):
    layer, (x,) = make(4).double(), data(4)
    layer.running_mean.fill_(2.0)
    layer.eval()
    before, var = state(layer), x.var((0, 2, 3))
    with stats_mode(layer, "mix(0.25)"):
        y = layer(x)
    mean = 1.5 + 0.25 * x.mean((0, 2, 3))
    expected = (x - mean[:, None, None]) / (0.75 + 0.25 * var + layer.eps).sqrt()[:, None, None]
    torch.testing.assert_close(y, expected, rtol=0, atol=ATOL)
    with stats_mode(layer, "batch"):
        torch.testing.assert_close(layer(x), make(4).double()(x))
    assert_state(layer, before)


def test_adaptation_at_test_time_learns_weights_by_the_batch():
    model = nn.Sequential(nn.Conv2d(4, 3, 1), nn.BatchNorm2d(3), nn.ReLU()).double().eval()
    (x,) = data(4)
    for mode in ("batch", "mix(0.5)"):
        with stats_mode(model, mode):
            model(x).square().mean().backward()
        assert model[1].weight.grad.abs().sum() > 0
        assert model[1].num_batches_tracked == 0
    twin = copy.deepcopy(model).train()
    model.zero_grad()
    twin.zero_grad()
    twin(x).square().mean().backward()
    with stats_mode(model, "batch"):
        loss = model(x).square().mean()
    loss.backward()
    torch.testing.assert_close(model[0].weight.grad, twin[0].weight.grad)


def test_other_modules_stay_in_their_mode_and_the_innermost_counts():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5)).eval()
    x = torch.randn(8, 2) + 4
    with stats_mode(model, "batch"):
        assert not model[1].training
        normalized = model(x)
        with stats_mode(model, "running"):
            torch.testing.assert_close(model(x), x / (1 + model[0].eps) ** 0.5)
        torch.testing.assert_close(model(x), normalized)
    assert normalized.mean().abs() < 1e-6
    assert "forward" not in vars(model[0])


def test_it_ends_when_something_raises_and_with_frozen_layers():
    model = nn.Sequential(nn.BatchNorm1d(2)).train()
    freeze(model)
    x = torch.randn(8, 2) + 4
    with stats_mode(model, "batch"):
        assert model(x).mean().abs() < 1e-6
    with pytest.raises(ZeroDivisionError), stats_mode(model, "batch"):
        raise ZeroDivisionError
    assert model(x).mean() > 2


def test_a_compiled_model_obeys():
    model, x = nn.Sequential(nn.BatchNorm1d(2)).eval(), torch.randn(8, 2) + 4
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    compiled(x)
    with stats_mode(compiled, "batch"):
        assert compiled(x).mean().abs() < 1e-6
    assert compiled(x).mean() > 2


@pytest.mark.parametrize(
    ("model", "mode", "message"),
    [
        (nn.BatchNorm1d(2), "bach", "unknown statistics 'bach'; did you mean 'batch'"),
        (nn.BatchNorm1d(2), "mix(2)", r"'mix\(2\)' should be mix\(a\) with a number a from 0"),
        (nn.BatchNorm1d(2), "mix(a)", r"should be mix\(a\) with a number"),
        (
            nn.GroupNorm(1, 2),
            "batch",
            "no layer has batch or running statistics to choose from",
        ),
        (nn.ReLU(), "running", "the model has no normalization layer"),
        (nn.BatchNorm1d(2, track_running_stats=False), "running", "keeps no running statistics"),
        (NORMS.create("switch(track_running_stats=False)", num_features=2), "mix(0.5)", "keeps no running statistics"),
    ],
    ids=["name", "large", "letter", "group", "none", "untracked", "switch"],
)
def test_what_cannot_be_is_refused(model, mode, message):
    with pytest.raises(SpecError, match=message), stats_mode(model, mode):
        pass


def test_norms_without_batch_statistics_do_not_stand_in_the_way():
    layers = [NORMS.create(s, num_features=4) for s in ("switch(using_bn=False)", "evo_b0(nonlinearity=False)")]
    model = nn.Sequential(*layers, nn.InstanceNorm2d(4), nn.BatchNorm2d(4))
    with stats_mode(model, "running"):
        model(torch.randn(2, 4, 3, 3))


def test_the_name_of_the_mode_is_told():
    with pytest.raises(UnknownName, match=r"Known: batch, mix\(share\), running"), stats_mode(nn.BatchNorm1d(1), ""):
        pass


def test_frozen_norms_have_no_batch_to_go_by():
    layers = timm().layers
    model = nn.Sequential(layers.FrozenBatchNormAct2d(4), nn.BatchNorm2d(4))
    with pytest.raises(SpecError, match=r"0 \(FrozenBatchNormAct2d\) is frozen"), stats_mode(model, "batch"):
        pass
    with stats_mode(model, "running"):
        model(torch.randn(2, 4, 3, 3))


@pytest.mark.parametrize("name", ["BatchNormAct2d", "EvoNorm2dB0"])
def test_timms_norms(name):
    layer, x = getattr(timm().layers, name)(4).eval(), torch.randn(4, 4, 3, 3) * 3
    before, running = state(layer), layer(x)
    with stats_mode(layer, "batch"):
        torch.testing.assert_close(layer(x), copy.deepcopy(layer).train()(x))
    with stats_mode(layer, "mix(0)"):
        torch.testing.assert_close(layer(x), running)
    assert_state(layer, before)


def test_a_custom_norm_whose_momentum_is_what_is_kept_cannot_be_mixed():
    layer, x = Biased(0.9, keep=True), torch.randn(4, 4, 3, 3)
    with stats_mode(layer, "batch"):
        layer(x)
    with stats_mode(layer, "mix(0.5)"), pytest.raises(SpecError, match="keeps part of its old running_mean"):
        layer(x)
    layer = Biased()
    with stats_mode(layer, "mix(1)"):
        torch.testing.assert_close(layer(x), Biased()(x))
