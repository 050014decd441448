"""Hooks, what follows a norm inside timm's layers, and what torch does with a model: all of it survives `convert`."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
from torch import nn

import normlab
from normlab.study.models import import_timm
from normlab.surgery import convert, norm_type
from normlab.surgery.conversion.adapt import tail

timm = import_timm()
layers = timm.layers


def classes(*modules):
    """The modules that these files of timm define."""
    found = {name: cls for module in modules for name, cls in vars(getattr(layers, module)).items()}
    return {
        n: c for n, c in found.items() if inspect.isclass(c) and issubclass(c, nn.Module) and "timm" in c.__module__
    }


NORM_ACT = {name: cls for name, cls in classes("norm_act").items() if "Act" in name}
FUSED = classes("filter_response_norm", "evo_norm", "inplace_abn")
PLAIN = classes("norm")


def example(cls, features=8):
    """In eval mode, with values that are not 1 and 0, and an activation that is told from others."""
    options = {"act_layer": nn.SiLU, "inplace": False, "drop_layer": nn.Dropout, "num_groups": 4}
    taken = inspect.signature(cls).parameters
    layer = cls(features, **{name: value for name, value in options.items() if name in taken})
    if cls.__name__ == "SyncBatchNormAct":
        layer.drop, layer.act = nn.Dropout(), nn.SiLU()
    for name, value in (*layer.named_parameters(), *layer.named_buffers()):
        if value.is_floating_point():
            nn.init.uniform_(value.data, 0.5, 1.5)
            assert "tracked" not in name
    return nn.Sequential(layer).eval()


def data(model):
    x = torch.randn(2, 8, 4, 3)
    return x.movedim(1, -1) if norm_type(model[0]).features == "last" else x


@pytest.mark.parametrize("cls", [*NORM_ACT.values(), *PLAIN.values(), *FUSED.values()], ids=lambda cls: cls.__name__)
def test_every_norm_of_timm_is_known_by_name(cls):
    known = norm_type(cls(32))
    assert known is not None
    word = {"batch": "Batch", "group": "Group", "layer": "Layer", "rms": "Rms"}.get(known.kind)
    assert (
        word is None
        or word in cls.__name__
        or cls.__name__ in {"InplaceAbn", "EvoNorm2dB0", "EvoNorm2dB1", "EvoNorm2dB2"}
    )
    assert known.frozen == ("Frozen" in cls.__name__)
    assert (known.features == "last") == (
        (word in {"Layer", "Rms"} and "2d" not in cls.__name__) or cls in (layers.SimpleNorm, layers.SimpleNormFp32)
    )


@pytest.mark.parametrize("spec", ["batch", "group(num_groups=4)", "batch(sync=True)", nn.SyncBatchNorm], ids=str)
@pytest.mark.parametrize("cls", NORM_ACT.values(), ids=lambda cls: cls.__name__)
def test_drop_and_act_stay(cls, spec):
    """pytorch#187298: convert_sync_batchnorm leaves the activation out, and says nothing."""
    model = example(cls)
    old, keys, x = model[0], set(model.state_dict()), data(model)
    y, drop, act = model(x), old.drop, old.act
    record = convert(model, spec)
    assert list(tail(model[0])) == ["drop", "act"]
    assert (model[0].drop, model[0].act) == (drop, act)
    assert "act" in record.changes[0].kept
    z = model(x)
    act_in = (z - nn.functional.silu(z.new_tensor(-1.278))).min()
    assert act_in > -1e-6  # the least value of SiLU, which a norm alone goes below
    if record.changes[0].exact_at_eval:
        torch.testing.assert_close(z, y, rtol=0, atol=2e-6)
        assert torch.equal(z, y) or norm_type(old).frozen
    record.revert()
    assert torch.equal(model(x), y)
    assert set(model.state_dict()) == keys


def test_sync_batch_norm_by_torch_itself_loses_the_activation():
    """The failure to beat; when torch has mended it this may go."""
    model = example(layers.BatchNormAct2d)
    x = data(model)
    assert (nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))(x) - model(x)).abs().max() > 0.1


def test_an_activation_with_parameters_keeps_them_and_their_keys():
    model = nn.Sequential(layers.BatchNormAct2d(8, act_layer=nn.PReLU)).eval()
    keys = list(model.state_dict())
    slope = model[0].act.weight
    record = convert(model, "batch")
    assert set(model.state_dict()) == set(keys)
    assert model[0].act.weight is slope
    assert not record.gone
    assert not record.new
    model.load_state_dict(copy.deepcopy(model.state_dict()))


def test_dropout_inside_a_norm_is_active_in_training_only():
    model = example(layers.BatchNormAct2d)
    convert(model, "group(num_groups=2)")
    x = data(model)
    assert not (model(x) == 0).any()
    assert (model.train()(x) == 0).any()


def test_the_activation_of_inplace_abn_becomes_a_child():
    model = nn.Sequential(layers.InplaceAbn(8, act_layer="leaky_relu", act_param=0.2))
    record = convert(model, "batch")
    assert repr(model[0].act) == "LeakyReLU(negative_slope=0.2)"
    assert record.changes[0].exact_at_eval is None  # its operator is not installed


@pytest.mark.parametrize("cls", [c for n, c in FUSED.items() if n not in {"FilterResponseNormAct2d", "InplaceAbn"}])
def test_an_activation_that_is_part_of_a_formula_is_reported_lost(cls):
    model = nn.Sequential(cls(32))
    assert "the activation inside the old layer" in convert(model, "batch").changes[0].note


def test_an_activation_after_an_activation_is_reported():
    model = example(layers.BatchNormAct2d)
    note = convert(model, "evo_s0(num_groups=2)", dry_run=True).changes[0].note
    assert "nonlinearity=False leaves out" in note
    assert "nonlinearity" not in convert(model, "evo_s0(num_groups=2, nonlinearity=False)").changes[0].note


def test_back_to_the_class_of_timm():
    model = example(layers.BatchNormAct2d)
    x, act = data(model), model[0].act
    y = model(x)
    convert(model, "batch")
    convert(model, layers.BatchNormAct2d)
    assert type(model[0]) is layers.BatchNormAct2d
    assert model[0].act is act
    assert torch.equal(model(x), y)  # once, not twice


def test_hooks_go_on_working_and_their_handles_too():
    model = example(layers.BatchNormAct2d)
    x, calls = data(model), []
    handles = [
        model[0].register_forward_pre_hook(lambda m, args: calls.append(("pre", m, args[0].shape))),
        model[0].register_forward_hook(lambda m, args, y: calls.append(("after", m, y.detach().min() > -0.3))),
        model[0].register_full_backward_hook(lambda m, gi, go: calls.append(("back", m, go[0].shape))),
        model[0].register_state_dict_post_hook(lambda m, *_: calls.append(("save", m, None))),
        model[0].register_load_state_dict_pre_hook(lambda m, *_: calls.append(("load", m, None))),
    ]

    def run():
        calls.clear()
        model(x.clone().requires_grad_()).sum().backward()
        model.load_state_dict(model.state_dict())
        return [(name, module) for name, module, _ in calls]

    old, kinds = model[0], ["pre", "after", "back", "save", "load"]
    assert run() == [(kind, old) for kind in kinds]
    first = list(calls)
    record = convert(model, "batch")
    assert run() == [(kind, model[0]) for kind in kinds]
    assert [what for *_, what in calls] == [what for *_, what in first]  # the hook sees what the activation gives
    handles[1].remove()
    assert run() == [(kind, model[0]) for kind in kinds if kind != "after"]
    record.revert()
    assert run() == [(kind, old) for kind in kinds if kind != "after"]
    for handle in handles:
        handle.remove()
    assert run() == []
    assert not old._forward_hooks


def test_user_hooks_see_features_where_they_were():
    model = nn.Sequential(nn.LayerNorm(8))
    seen = []
    model[0].register_forward_pre_hook(lambda m, args: seen.append(args[0].shape))
    model[0].register_forward_hook(lambda m, args, y: seen.append(y.shape))
    convert(model, "group(num_groups=2)")
    model(torch.randn(2, 5, 8))
    assert seen == [(2, 5, 8), (2, 5, 8)]


def test_hooks_with_keywords_and_always_called():
    model = nn.Sequential(nn.BatchNorm2d(4))
    calls = []
    model[0].register_forward_hook(lambda m, args, kwargs, y: calls.append(kwargs), with_kwargs=True, always_call=True)
    model[0].register_forward_pre_hook(lambda m, args, kwargs: calls.append(kwargs), with_kwargs=True)
    convert(model, "batch")
    model(torch.randn(2, 4, 3, 3))
    assert calls == [{}, {}]


def test_printing_a_model_shows_the_activation_that_follows_a_converted_layer():
    model = nn.Sequential(layers.BatchNormAct2d(4, act_layer=nn.SiLU))
    convert(model, "group(num_groups=2)")
    assert "(act): SiLU(" in repr(model)
    assert repr(normlab.create("group(num_groups=2)", num_features=4)) == "GroupNorm(4, num_groups=2)"
