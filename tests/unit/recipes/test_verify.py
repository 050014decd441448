"""`verify` finds what undoes a recipe's rates, and says what to pass instead."""

from __future__ import annotations

import copy
import math
import re

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as lrs

import normlab
from normlab.errors import SpecError
from tests.unit.recipes.models import conv_net, timm_model

R = normlab.recipe("revisited")
LR = 0.1


@pytest.fixture
def model() -> nn.Module:
    return R.prepare(conv_net())


def optimizer_of(model: nn.Module, cls=torch.optim.SGD, **options):
    return cls(R.param_groups(model, lr=LR, weight_decay=1e-4), **options)


KEEP = {
    "cosine": lambda o: lrs.CosineAnnealingLR(o, 180, eta_min=1e-8),  # the official code's
    "cosine_by_step": lambda o: lrs.CosineAnnealingLR(o, 50_000),
    "restarts": lambda o: lrs.CosineAnnealingWarmRestarts(o, 10, T_mult=2),
    "one_cycle": lambda o: lrs.OneCycleLR(o, R.max_lr(o, LR), total_steps=500),
    "cyclic": lambda o: lrs.CyclicLR(o, R.max_lr(o, 1e-3), R.max_lr(o, LR), step_size_up=20, cycle_momentum=False),
    "warmup": lambda o: lrs.SequentialLR(
        o, [lrs.LinearLR(o, 0.01, total_iters=5), lrs.CosineAnnealingLR(o, 20)], milestones=[5]
    ),
    "chained": lambda o: lrs.ChainedScheduler([lrs.ExponentialLR(o, 0.9), lrs.MultiStepLR(o, [30, 80])]),
    "plateau": lrs.ReduceLROnPlateau,
    "step": lambda o: lrs.StepLR(o, 30),
    "polynomial": lambda o: lrs.PolynomialLR(o, 100, power=2.0),
    "lambda": lambda o: lrs.LambdaLR(o, lambda k: 0.95**k),
}
UNDO = {
    "one_cycle": (lambda o: lrs.OneCycleLR(o, LR, total_steps=500), "scheduler", r"which is \[0.1, 0.001, 0.1\]"),
    "cyclic": (
        lambda o: lrs.CyclicLR(o, 1e-3, LR, step_size_up=20, cycle_momentum=False),
        "scheduler",
        "norm_scale learns at 0.001 where no_decay does at 0.001",
    ),
    "cosine": (lambda o: lrs.CosineAnnealingLR(o, 180, eta_min=1e-3), "eta_min", "eta_min=0, or at most 0.0001"),
    "cosine_by_step": (lambda o: lrs.CosineAnnealingLR(o, 50_000, eta_min=1e-2), "eta_min", "grows instead of"),
    "restarts": (lambda o: lrs.CosineAnnealingWarmRestarts(o, 10, eta_min=1e-2), "eta_min", "grows instead of"),
    "warmup": (
        lambda o: lrs.SequentialLR(
            o, [lrs.LinearLR(o, 0.01, total_iters=5), lrs.CosineAnnealingLR(o, 20, eta_min=1e-3)], milestones=[5]
        ),
        "eta_min",
        r"CosineAnnealingLR\(eta_min=0.001\) is a floor for all groups, and norm_scale starts at 0.001",
    ),
    "plateau": (lambda o: lrs.ReduceLROnPlateau(o, min_lr=1e-3), "scheduler", "ReduceLROnPlateau at step 12"),
    "lambda": (lambda o: lrs.LambdaLR(o, [lambda k: 1, lambda k: 1, lambda k: 0.5]), "scheduler", "LambdaLR at step 0"),
}


@pytest.mark.parametrize("cls", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("build", KEEP.values(), ids=KEEP)
def test_schedulers_that_keep_the_ratio(build, cls, model):
    optimizer = optimizer_of(model, cls, **({"momentum": 0.9} if cls is torch.optim.SGD else {}))
    assert R.verify(optimizer, build(optimizer), model=model) == ()


@pytest.mark.parametrize(("build", "rule", "text"), UNDO.values(), ids=UNDO)
def test_schedulers_that_do_not(build, rule, text, model):
    optimizer = optimizer_of(model, momentum=0.9)
    findings = R.verify(optimizer, build(optimizer), model=model)
    assert [finding.rule for finding in findings] == [rule]
    assert re.search(text, str(findings[0]))


def test_one_cycle_is_seen_in_the_optimizer_alone(model):
    optimizer = optimizer_of(model, momentum=0.9)
    lrs.OneCycleLR(optimizer, LR, total_steps=10)
    (finding,) = R.verify(optimizer)
    assert finding.rule == "rates"
    assert finding.message.startswith("norm_scale learns at 0.004 where no_decay does at 0.004, and should at 4e-05")


def test_nothing_is_touched_by_the_trial(model):
    optimizer = optimizer_of(model, momentum=0.9)
    scheduler = lrs.OneCycleLR(optimizer, R.max_lr(optimizer, LR), total_steps=50)
    model(torch.randn(4, 3, 5, 5)).sum().backward()
    optimizer.step()
    scheduler.step()
    before = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
    assert R.verify(optimizer, scheduler) == ()
    assert str((optimizer.state_dict(), scheduler.state_dict())) == str(before)
    assert scheduler.optimizer is optimizer


def test_halfway_through_a_schedule_all_is_well(model):
    optimizer = optimizer_of(model)
    scheduler = lrs.CosineAnnealingLR(optimizer, 20, eta_min=1e-8)
    for _ in range(20):
        optimizer.step()
        assert R.verify(optimizer, scheduler) == ()
        scheduler.step()


class Odd:
    def __init__(self, optimizer, error: bool) -> None:
        self.optimizer, self.error = optimizer, error

    def step(self, epoch: int) -> None:
        if self.error:
            raise RuntimeError("out of order")
        for group in self.optimizer.param_groups:
            group["lr"] = 0.05


@pytest.mark.parametrize(("error", "text"), [(True, "cannot be tried on a copy: RuntimeError"), (False, "at step 1:")])
def test_schedulers_of_others(error, text, model):
    optimizer = optimizer_of(model)
    (finding,) = R.verify(optimizer, Odd(optimizer, error))
    assert text in finding.message
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.001, 0.1]


@pytest.mark.parametrize(
    ("options", "rules"), [({"lr_min": 0.0}, []), ({"lr_min": 1e-3}, ["eta_min"]), ({"warmup": 1e-2}, ["scheduler"])]
)
def test_schedulers_of_timm(options, rules, model):
    timm_model("test_resnet")
    from timm.scheduler import CosineLRScheduler

    optimizer = optimizer_of(model)
    warmup = {"warmup_t": 5, "warmup_lr_init": options.pop("warmup")} if "warmup" in options else {}
    scheduler = CosineLRScheduler(optimizer, 100, **options, **warmup)
    assert [finding.rule for finding in R.verify(optimizer, scheduler)] == rules


def test_a_scheduler_of_another_optimizer(model):
    optimizer, other = optimizer_of(model), optimizer_of(model)
    (finding,) = R.verify(optimizer, lrs.StepLR(other, 3))
    assert finding.message == "StepLR drives another optimizer"


def test_groups_that_others_made(model):
    """HF Trainer sorts by type and name into two groups of one rate."""
    decayed = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() <= 1]
    own = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}], lr=LR)
    (finding,) = R.verify(own, lrs.OneCycleLR(own, LR, total_steps=10), model=model)
    assert finding.rule == "groups"
    assert "optimizers=(optimizer, scheduler)" in finding.instead


def test_groups_of_another_recipe_and_decay_set_afterwards(model):
    optimizer = optimizer_of(model)
    (finding,) = normlab.recipe("revisited(lr_divisor=10)").verify(optimizer)
    assert finding.message.startswith("norm_scale learns at lr / 100, and this recipe wants lr / 10")
    optimizer.param_groups[1]["weight_decay"] = 1e-4
    assert R.verify(optimizer)[0].message == "norm_scale decays, by 0.0001"


def test_an_optimizer_made_before_surgery(model):
    optimizer = optimizer_of(model)
    for name in ("bn0", "bn1"):
        old = model[1].get_submodule(name)
        model[1].add_module(name, nn.BatchNorm2d(old.num_features))
    (finding,) = R.verify(optimizer, model=model)
    assert finding.rule == "parameters"
    assert "1.bn0.weight is in 0 groups" in finding.message
    assert "4 are no trainable parameters of this model" in finding.message or "more" in finding.message
    assert R.verify(optimizer) == ()  # nobody can tell without the model


def test_converted_with_the_optimizer_all_is_well():
    r = normlab.recipe("baseline")
    model = r.prepare(conv_net())
    optimizer = torch.optim.SGD(r.param_groups(model, lr=LR), momentum=0.9)
    normlab.surgery.convert(model, "group(num_groups=1)", optimizer=optimizer)
    assert r.verify(optimizer, model=model) == ()


def test_max_lr_is_the_list_of_the_groups(model):
    groups = R.param_groups(model, lr=LR)
    assert R.max_lr(groups, 0.5) == [0.5, 0.005, 0.5]
    assert R.max_lr(torch.optim.SGD(groups), 0.5) == [0.5, 0.005, 0.5]
    for wrong in (math.nan, -1, "0.1", [0.1]):
        with pytest.raises(SpecError, match="should be one number >= 0"):
            R.max_lr(groups, wrong)
    with pytest.raises(SpecError, match=r"1 of 1 groups do not say their lr_divisor: recipe.param_groups makes"):
        R.max_lr(torch.optim.SGD(model.parameters()), 0.1)
    with pytest.raises(SpecError, match=r"an optimizer, or groups made by .* are wanted; got 3"):
        R.verify(3)


def test_a_forgotten_prepare_is_found_before_the_first_step():
    recipe, model = normlab.recipe("revisited(input_norm=False)"), nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    optimizer = torch.optim.SGD(recipe.param_groups(model, lr=0.1), momentum=0.9)
    assert [finding.rule for finding in recipe.verify(optimizer, model=model)] == ["prepare"]
    recipe.prepare(model)
    assert recipe.verify(optimizer, model=model) == ()


def test_a_scope_that_leaves_everything_out_is_named():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    with pytest.raises(SpecError, match=r"scope='1, !1' leaves all of its layers out"):
        normlab.recipe("revisited(scope='1, !1')").prepare(model)
