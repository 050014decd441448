"""Every trainable parameter is in exactly one optimizer group, and in the right one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import normlab
from normlab.errors import SpecError
from normlab.layers import BatchNorm
from normlab.recipes import check_cover
from normlab.recipes.groups import RULES
from tests.golden import load
from tests.unit.recipes.models import Odd, conv_net, resnet18

REVISITED = normlab.recipe("revisited(scale=0.1, lr_divisor=100)")


def names(model: nn.Module, groups) -> dict[str, list[str]]:
    called = {id(p): name for name, p in model.named_parameters()}
    return {group["name"]: [called[id(p)] for p in group["params"]] for group in groups}


@pytest.mark.parametrize("rule", RULES)
def test_both_rules_give_the_official_groups_of_a_resnet18(rule):
    case = load("param_groups_official_cifar_resnet18_inputbn")
    model = REVISITED.prepare(resnet18())
    groups = REVISITED.param_groups(model, lr=0.1, weight_decay=1e-4, rule=rule)
    assert list(names(model, groups).values()) == [group["params"] for group in case.meta["groups_c100"]]
    assert [len(group["params"]) for group in groups] == [21, 21, 21]
    assert [group["lr"] for group in groups] == pytest.approx([0.1, 0.001, 0.1])
    assert [group["weight_decay"] for group in groups] == [0.0, 0.0, 1e-4]


def test_roles_of_odd_parameters():
    model = Odd()
    found = names(model, REVISITED.param_groups(model, lr=0.1, weight_decay=1e-4))
    assert found["norm_scale"] == ["bn.weight"]
    assert found["weight"] == [
        "conv.weight",
        "emb.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "rnn.weight_ih_l0",
        "rnn.weight_hh_l0",
        "spectral.parametrizations.weight.original",
        "head.weight",
    ]
    assert {"layer_scale", "class_token", "prelu.weight", "ln.weight", "gn.weight", "rms.weight", "head.bias"} < set(
        found["no_decay"]
    )
    assert not any("frozen" in name for group in found.values() for name in group)


class OwnParameters(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 4)
        self.gain = nn.Parameter(torch.ones(4, 4))


MODELS = {
    "odd": Odd,
    "conv_net": conv_net,
    "linear_to_one": lambda: nn.Linear(7, 1),
    "norm_at_the_root": lambda: nn.BatchNorm1d(1),
    "norm_without_affine": lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, affine=False)),
    "formulation_a2": lambda: nn.Sequential(nn.Linear(3, 3), BatchNorm(3, formulation="a2")),
    "weight_norm": lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 1)),
    "shared_norm": lambda: nn.Sequential(*[nn.BatchNorm1d(3)] * 2, nn.Linear(3, 3)),
    "subclass_with_a_gain": OwnParameters,
    "frozen_scale": lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3).requires_grad_(False)),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_each_trainable_parameter_is_in_exactly_one_group(build, rule):
    model = build()
    groups = REVISITED.param_groups(model, lr=0.1, weight_decay=1e-4, rule=rule)
    found = [id(p) for group in groups for p in group["params"]]
    assert len(found) == len(set(found))
    assert set(found) == {id(p) for p in model.parameters() if p.requires_grad}
    assert all(group["params"] for group in groups)


def test_inner_weight_and_gain_learn_at_the_full_rate_without_decay():
    model = nn.Sequential(BatchNorm(3, formulation="a2"), OwnParameters())
    found = names(model, REVISITED.param_groups(model, lr=0.1))
    assert {"0.inner_weight", "0.bias", "1.gain", "1.bias"} == set(found["no_decay"])
    assert found["norm_scale"] == ["0.weight"]


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("rule", RULES)
def test_optimizers_take_the_groups_and_step(optimizer, rule):
    model = REVISITED.prepare(conv_net())
    opt = optimizer(REVISITED.param_groups(model, lr=0.01, weight_decay=1e-4, rule=rule))
    before = [p.detach().clone() for p in model.parameters()]
    model(torch.randn(4, 3, 5, 5)).square().sum().backward()
    opt.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    optimizer(REVISITED.param_groups(model, lr=0.01)).load_state_dict(opt.state_dict())


def test_check_cover_says_what_is_wrong():
    model = nn.Linear(3, 2)
    with pytest.raises(SpecError, match="weight is in 2 groups, bias is in 0 groups, 1 are no trainable"):
        check_cover(model, [{"params": [model.weight, model.weight, nn.Parameter(torch.ones(1))]}])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": -1.0}, "lr=-1.0 should be a number >= 0"),
        ({"lr": "0.1"}, "lr='0.1' should be a number"),
        ({"lr": 0.1, "weight_decay": float("nan")}, "weight_decay=nan should be a number"),
        ({"lr": 0.1, "rule": "roles"}, "unknown rule 'roles'; did you mean 'role'"),
    ],
)
def test_arguments_that_cannot_be(arguments, message):
    with pytest.raises(SpecError, match=message):
        REVISITED.param_groups(conv_net(), **arguments)


def test_nothing_to_train_is_an_error():
    with pytest.raises(SpecError, match="Sequential has no trainable parameter"):
        REVISITED.param_groups(conv_net().requires_grad_(False), lr=0.1)
