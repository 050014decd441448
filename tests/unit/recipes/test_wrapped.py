"""Models inside wrappers, shared parameters, and what is refused with its reason."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import normlab
from normlab.errors import SpecError
from normlab.recipes import InputNormalized, attach_rules
from normlab.seeding import Streams
from tests.unit.recipes.models import conv_net

R = normlab.recipe("revisited")
STREAMS = Streams(1)


@pytest.fixture
def one_process(tmp_path) -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def shape_of(groups) -> list[tuple[str, float, list[int]]]:
    return [(g["name"], g["lr"], [id(p) for p in g["params"]]) for g in groups]


def test_groups_of_a_ddp_model_are_those_of_the_model_inside(one_process):
    model = R.prepare(conv_net())
    wrapped = DistributedDataParallel(model)
    assert shape_of(R.param_groups(wrapped, lr=0.1)) == shape_of(R.param_groups(model, lr=0.1))
    optimizer = torch.optim.SGD(R.param_groups(wrapped, lr=0.1))
    assert R.verify(optimizer, model=wrapped) == ()
    assert len(R.explain(wrapped, torch.randn(4, 3, 5, 5)).layers) == 3
    wrapped(torch.randn(4, 3, 5, 5)).sum().backward()
    optimizer.step()
    with pytest.raises(SpecError, match="is a DistributedDataParallel: it has planned its communication"):
        normlab.recipe("baseline").prepare(DistributedDataParallel(conv_net()))


def test_rules_of_a_ddp_model_are_found(one_process):
    r = normlab.recipe("norm(to='sparse_switch')")
    wrapped = DistributedDataParallel(r.prepare(conv_net()))
    optimizer = torch.optim.SGD(r.param_groups(wrapped, lr=0.1))
    assert attach_rules(optimizer, wrapped) is not None
    assert normlab.layers.set_progress(wrapped, 0.5) == 2


@pytest.mark.parametrize("spec", ["revisited", "revisited(input_norm=False)", "norm(to='group(num_groups=2)')", "a2"])
@pytest.mark.parametrize("wrap", [lambda m: torch.compile(m, backend="eager"), nn.DataParallel], ids=["compile", "dp"])
def test_compiled_and_data_parallel_models_are_changed_inside(wrap, spec):
    r = normlab.recipe(spec)
    bare = conv_net()
    plain = r.prepare(copy.deepcopy(bare), streams=STREAMS)
    wrapped = wrap(bare)
    model = r.prepare(wrapped, streams=STREAMS)
    assert (model[1] if isinstance(model, InputNormalized) else model) is wrapped
    x = torch.randn(4, 3, 5, 5)
    torch.testing.assert_close(model(x), plain(x))
    ours, theirs = (r.param_groups(m, lr=0.1) for m in (model, plain))
    assert [(g["name"], len(g["params"])) for g in ours] == [(g["name"], len(g["params"])) for g in theirs]


def test_scope_of_a_compiled_model():
    r = normlab.recipe("revisited(scope='bn1')")
    model = r.prepare(torch.compile(conv_net(), backend="eager"))
    assert [len(g["params"]) for g in r.param_groups(model, lr=0.1) if g["name"] == "norm_scale"] == [2]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: torch.jit.script(conv_net()), "its layers are compiled into one graph"),
        (
            lambda: nn.Sequential(torch.ao.nn.quantized.Conv2d(3, 4, 1), nn.BatchNorm2d(4)),
            "quantised layers have their norms folded in",
        ),
        (lambda: "resnet18", "surgery takes a torch module; got 'resnet18'"),
    ],
)
def test_models_that_cannot_be_changed_are_refused_with_the_reason(build, message):
    with pytest.raises(SpecError, match=message):
        R.prepare(build())


def test_flat_parameters_are_refused():
    FlatParameter = type("FlatParameter", (nn.Parameter,), {})
    model = nn.Module()
    model.flat = FlatParameter(torch.zeros(3))
    with pytest.raises(SpecError, match="joined these parameters into flat ones"):
        R.param_groups(model, lr=0.1)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(3)
        self.linear = nn.Linear(3, 3)
        self.linear.weight = self.bn.weight


class Alias(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.again = None
        self.bn = nn.BatchNorm1d(3)
        self.again = self.bn.weight


def test_a_parameter_that_would_land_in_two_groups_is_refused():
    with pytest.raises(SpecError, match=r"bn\.weight is also linear\.weight, and would land in two groups"):
        R.param_groups(Tied(), lr=0.1)


@pytest.mark.parametrize("first", [True, False])
def test_an_alias_in_a_module_of_unknown_type_takes_the_role_of_the_known_one(first):
    model = nn.Sequential(Alias()) if not first else nn.Module()
    if first:
        model.bare = nn.Parameter(torch.ones(3))
        model.bn = nn.BatchNorm1d(3)
        model.bn.weight = model.bare
    groups = R.param_groups(model, lr=0.1)
    assert [len(group["params"]) for group in groups if group["name"] == "norm_scale"] == [1]


def test_layers_that_share_a_scale_are_one_parameter_in_one_group():
    model = conv_net()
    model.bn1.weight = model.bn0.weight
    prepared = R.prepare(model)
    groups = R.param_groups(prepared, lr=0.1)
    assert sum(p is model.bn0.weight for group in groups for p in group["params"]) == 1
    assert model.bn1.weight.eq(0.1).all()


def test_parametrized_weights_have_the_role_of_what_they_stand_for():
    model = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 1)),
        nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)),
        nn.BatchNorm1d(4),
    )
    called = {id(p): name for name, p in model.named_parameters()}
    found = {g["name"]: {called[id(p)] for p in g["params"]} for g in R.param_groups(model, lr=0.1)}
    assert found["weight"] == {
        "0.parametrizations.weight.original0",
        "0.parametrizations.weight.original1",
        "1.parametrizations.weight.original",
    }
    with pytest.raises(SpecError, match="weight of '0' is computed"):
        R.prepare(model)
    kept = normlab.recipe("revisited(init='keep', input_norm=False)").prepare(model)
    assert kept[2].weight.eq(0.1).all()
