"""What torch does with a model goes on working after `convert`, activations inside norms included."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from normlab.layers import BatchNorm, GroupNorm
from normlab.study.models import import_timm
from normlab.surgery import convert, norm_sites
from normlab.surgery.conversion.adapt import tail

layers = import_timm().layers


def network():
    """A small network of timm's layers with activations, in eval mode, converted to GroupNorm."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), layers.BatchNormAct2d(8, act_layer=nn.SiLU), nn.Conv2d(8, 8, 3), layers.BatchNormAct2d(8)
    )
    convert(model, "group(num_groups=2)")
    return model.eval()


X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save"])
def test_copies_keep_the_activation(way):
    model = network()
    if way == "torch.save":
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        twin = torch.load(file, weights_only=False)
    else:
        twin = copy.deepcopy(model) if way == "deepcopy" else pickle.loads(pickle.dumps(model))
    assert torch.equal(twin(X), model(X))
    nn.init.zeros_(twin[1].weight)
    assert not torch.equal(twin(X), model(X))  # a copy of its own
    assert isinstance(twin[3].act, nn.ReLU)
    record = convert(twin, "batch")
    assert list(tail(twin[1])) == ["drop", "act"]
    record.revert()


@pytest.mark.parametrize("training", [False, True])
def test_torch_compile_keeps_the_activation(training):
    model = network().train(training)
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(X), model(X))


def test_a_compiled_model_takes_up_the_new_layers():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval()
    compiled = torch.compile(model, backend="aot_eager")
    before = compiled(X)
    record = convert(compiled, "group(num_groups=2)")
    assert record.model is compiled
    assert type(model[1]) is GroupNorm
    assert record.changes[0].names == ("1",)
    torch.testing.assert_close(compiled(X), model(X))
    record.revert()
    torch.testing.assert_close(compiled(X), before)


def test_torch_export_keeps_the_activation():
    model = network()
    torch.testing.assert_close(torch.export.export(model, (X,)).module()(X), model(X))


def test_fx_keeps_the_activation():
    model = network()
    convert(model, nn.BatchNorm2d)  # a leaf to fx, which its own fusion would take for a plain one
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(X), model(X))


def test_state_dicts_go_both_ways():
    model = network()
    model.load_state_dict(torch.load(saved(model), weights_only=True))
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    other = copy.deepcopy(plain)
    convert(other, "batch")
    other.load_state_dict(plain.state_dict())
    plain.load_state_dict(other.state_dict())


def saved(model):
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    return file


def test_data_parallel_is_unwrapped():
    model = nn.Sequential(nn.BatchNorm2d(4))
    wrapped = nn.DataParallel(model)
    record = convert(wrapped, "batch")
    assert record.model is wrapped
    assert type(model[0]) is BatchNorm
    assert [site.name for site in norm_sites(wrapped)] == ["module.0"]
