"""A model keeps its structure, its flags and its layouts through `convert`; `sample` and `dry_run` leave no trace."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from normlab.layers import NORMS, BatchNorm, GroupNorm, LayerNorm, SwitchNorm
from normlab.surgery import convert, norm_sites
from tests.conftest import TOLERANCE
from tests.unit.surgery.conversions import net, trained


def test_frozen_stays_frozen_and_training_flags_stay_mixed():
    model = net()
    model[1].eval().requires_grad_(False)
    convert(model, "switch")
    assert (model[1].training, model[3][1].training) == (False, True)
    assert [p.requires_grad for p in model[1].parameters()] == [False] * 4  # the new logits too
    assert all(p.requires_grad for p in model[3][1].parameters())


def test_layouts_and_dtypes_are_kept():
    model = net().double().to(memory_format=torch.channels_last)
    convert(model, "switch")
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    y = model(torch.randn(2, 3, 8, 8).double().to(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_half_statistics_are_widened_and_fit_when_they_go_back():
    model = nn.Sequential(nn.BatchNorm2d(4).bfloat16())
    old = model[0]
    (change,) = convert(model, "batch").changes
    assert model[0].running_mean.dtype == torch.float32
    assert "statistics from bfloat16 to float32" in change.note
    record = convert(model, nn.BatchNorm2d)
    model(torch.randn(2, 4, 3, 3).bfloat16())
    assert "statistics from float32 to bfloat16" in record.changes[0].note
    record.revert()
    assert old.running_mean.dtype == torch.bfloat16


def test_a_layer_held_twice_stays_one_layer():
    shared = nn.BatchNorm2d(4)
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(nn.ReLU(), shared), "c": shared})
    record = convert(model, "batch")
    assert model["a"] is model["b"][1] is model["c"]
    assert type(model["a"]) is BatchNorm
    assert record.changes[0].names == ("a", "b.1", "c")
    record.revert()
    assert model["a"] is model["b"][1] is model["c"] is shared


def test_one_weight_in_two_layers_stays_one_weight():
    first, second = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
    second.weight = first.weight
    model = nn.Sequential(first, second)
    convert(model, "group(num_groups=2)")
    assert model[0].weight is model[1].weight is first.weight
    record = convert(model, "group(num_groups=2, affine=False)", where="0")
    assert not record.gone.keys() & {"1.weight"}  # still in use
    assert set(record.gone) == {"0.bias"}


def test_a_norm_at_the_root():
    layer = trained(nn.BatchNorm2d(4), torch.randn(3, 4, 2, 2)).eval()
    x = torch.randn(2, 4, 3, 3)
    record = convert(layer, "batch", sample=x)
    assert type(record.model) is BatchNorm
    assert record.changes[0].names == ("",)
    assert torch.equal(record.model(x), layer(x))
    assert record.revert() is layer


def test_inner_norms_go_with_the_layer_that_they_are_part_of():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
    convert(model, "attentive")
    assert [site.name for site in norm_sites(model)] == ["1", "1.attention.1"]
    record = convert(model, "batch")
    assert [change.names for change in record.changes] == [("1",)]


def test_lazy_layers_get_their_shapes_from_the_sample():
    torch.manual_seed(0)
    model = nn.Sequential(nn.LazyConv2d(6, 3), nn.LazyBatchNorm2d(eps=1e-3), nn.ReLU())
    x = torch.randn(2, 3, 5, 5)
    record = convert(model, "group(num_groups=3)", sample=x)
    assert type(model[1]) is GroupNorm
    assert (model[1].num_features, model[1].eps) == (6, 1e-3)
    assert model[0].weight.shape == (6, 3, 3, 3)
    record.revert()
    assert type(model[1]) is nn.BatchNorm2d
    model(x)


def test_lazy_batch_norm_becomes_no_sync_batch_norm_of_width_zero():
    model = nn.Sequential(nn.LazyBatchNorm2d())
    convert(model, nn.SyncBatchNorm, sample=torch.randn(2, 3, 5, 5))
    assert (type(model[0]), model[0].num_features) == (nn.SyncBatchNorm, 3)


def test_meta_device():
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    record = convert(model, "switch")
    assert all(value.is_meta for value in (*model.parameters(), *model.buffers()))
    assert record.changes[0].exact_at_eval is None
    record.revert()
    convert(model, nn.SyncBatchNorm)
    assert model[1].weight.is_meta


def test_dry_run_reports_and_changes_nothing():
    model = net()
    layers, rng = list(model.modules()), torch.get_rng_state()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    groups = copy.deepcopy(optimizer.state_dict())
    record = convert(model, "ilm(num_groups=2, key_group_size=2)", optimizer=optimizer, dry_run=True)
    assert record.dry_run
    assert record.model is model
    assert list(record.changes[0].added) == ["encoder.weight", "decode_weight.weight", "decode_bias.weight"]
    assert all(a is b for a, b in zip(model.modules(), layers, strict=True))
    assert optimizer.state_dict() == groups
    assert torch.equal(torch.get_rng_state(), rng)


def test_sample_leaves_no_trace_and_measures_the_change():
    model = net()
    model[3].eval()
    model.append(nn.Dropout())
    x = torch.randn(2, 3, 8, 8)
    state, rng, was = copy.deepcopy(model.state_dict()), torch.get_rng_state(), x.clone()
    assert convert(model, "batch", sample=x).difference == 0
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert (model[1].training, model[3][1].training) == (True, False)
    assert torch.equal(torch.get_rng_state(), rng)
    assert torch.equal(x, was)
    assert convert(model, "group(num_groups=2)", sample=x).difference > 0.1


@pytest.mark.parametrize("sample", [(torch.ones(2, 4, 3),), {"x": torch.ones(2, 4, 3)}], ids=["tuple", "dict"])
def test_samples_of_several_arguments(sample):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn = nn.BatchNorm1d(4)

        def forward(self, x):
            return {"y": [self.bn(x)], "n": 3}

    assert convert(Model(), "batch", sample=sample).difference == 0


def test_every_layer_of_normlab_takes_the_place_of_batch_norm_and_gives_it_back():
    x = torch.randn(4, 8, 6, 6)
    own = {
        "group": "group(num_groups=4)",
        "evo_s0": "evo_s0(num_groups=4)",
        "ilm": "ilm(num_groups=4, key_group_size=2)",
    }
    for name in NORMS:
        model = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), trained(nn.BatchNorm2d(8, eps=2e-5), x), nn.ReLU()).eval()
        y = model(x)
        spec = own.get(name, name)
        record = convert(model, spec, sample=x)
        assert model[1].eps == 2e-5, name
        assert not any(word in key for key in model.state_dict() for word in ("gamma", "beta"))  # transformers renames
        copy.deepcopy(model).train()(x).sum().backward()
        convert(model, nn.BatchNorm2d).revert()
        record.revert()
        assert torch.equal(model.eval()(x), y), name


def test_options_of_a_normlab_layer_are_carried_over():
    old = BatchNorm(
        4, guard_nonfinite=True, running_var="biased", momentum=0.9, momentum_convention="keep", batch1="running"
    )
    model = nn.Sequential(old)
    convert(model, "switch")
    layer = model[0]
    assert type(layer) is SwitchNorm
    assert (layer.guard_nonfinite, layer.stored_var, layer.batch1) == (True, "biased", "running")
    assert (layer.momentum, layer.momentum_convention) == (0.9, "keep")
    convert(model, nn.BatchNorm2d)
    assert model[0].momentum == pytest.approx(0.1)
    convert(model, "batch(momentum_convention='keep')")
    assert model[0].momentum == pytest.approx(0.9)


def test_a_fused_activation_becomes_a_child_where_the_new_layer_has_none():
    x = torch.randn(2, 4, 3, 3)
    model = nn.Sequential(BatchNorm(4, activation="relu"))
    y = model.eval()(x)
    for spec in ("batch", nn.BatchNorm2d, "batch(sync=True)", nn.SyncBatchNorm):
        assert convert(model, spec).changes[0].exact_at_eval
        torch.testing.assert_close(model(x), y, rtol=0, atol=0)
    model = nn.Sequential(BatchNorm(4, activation="relu"))
    convert(model, "batch(activation=None)")
    assert (model(x) < 0).any()  # as asked for


def test_layer_norm_over_the_last_dimension_is_fed_a_view():
    x = torch.randn(2, 5, 8, requires_grad=True)
    model = nn.Sequential(nn.Linear(8, 8), trained(nn.LayerNorm(8), x))
    convert(model, "group(num_groups=4)")
    want = nn.functional.group_norm(model[0](x).movedim(-1, 1), 4, model[1].weight, model[1].bias).movedim(1, -1)
    torch.testing.assert_close(model(x), want, rtol=0, atol=TOLERANCE[torch.float32])
    convert(model, nn.LayerNorm)
    torch.testing.assert_close(model(x), nn.functional.layer_norm(model[0](x), (8,), model[1].weight, model[1].bias))


def test_layer_norm_in_the_place_of_batch_norm_normalizes_features():
    model = nn.Sequential(nn.BatchNorm2d(4))
    convert(model, nn.LayerNorm)
    y = model(torch.randn(2, 4, 3, 3))
    assert y.shape == (2, 4, 3, 3)
    torch.testing.assert_close(y.mean(1), torch.zeros(2, 3, 3), rtol=0, atol=1e-6)


def test_transformer_encoder_layer_does_not_bypass_the_new_norm():
    x = torch.randn(2, 5, 8)
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    convert(model, "batch")
    with torch.no_grad():  # where torch would use its fused kernel, which knows LayerNorm alone
        fast = model(x)
    torch.testing.assert_close(fast, model(x))


def test_layer_norm_of_normlab_from_torch():
    model = nn.Sequential(nn.LayerNorm(8))
    (change,) = convert(model, "layer").changes
    assert type(model[0]) is LayerNorm
    assert change.exact_at_eval is False
    assert "each position alone" in change.note
