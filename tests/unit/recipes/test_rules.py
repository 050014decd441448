"""Layers with training rules of their own bring them along."""

from __future__ import annotations

import copy
import math
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import normlab
from normlab.errors import SpecError
from normlab.layers import HasRules, TrainingRule, set_progress
from normlab.optim import SAM
from normlab.recipes import RECIPES, attach_rules
from normlab.seeding import Streams
from normlab.study.context import Context
from normlab.study.plan import plan
from normlab.study.reading import validate
from normlab.study.spec import StudySpec
from normlab.study.train import train
from tests.unit.recipes.models import conv_net

SPARSE = normlab.recipe("norm(to='sparse_switch')")


def sparse() -> nn.Sequential:
    return SPARSE.prepare(conv_net())


def logits(model: nn.Module) -> list[nn.Parameter]:
    return [p for name, p in model.named_parameters() if "logits" in name]


def total(parameters) -> float:
    return math.sqrt(sum(float(p.grad.square().sum()) for p in parameters if p.grad is not None))


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_logits_learn_at_a_tenth_without_decay(optimizer):
    model = sparse()
    groups = SPARSE.param_groups(model, lr=0.1, weight_decay=1e-2)
    found = groups[-1]
    assert {id(p) for p in found["params"]} == {id(p) for p in logits(model)}
    assert (found["name"], found["lr"], found["weight_decay"], found["max_norm"]) == ("mix_logits", 0.01, 0.0, 1.0)
    opt = optimizer(groups)
    assert opt.param_groups[-1]["lr"] == 0.01
    copy.deepcopy(opt).load_state_dict(opt.state_dict())


@pytest.mark.parametrize("closure", [False, True])
def test_their_gradient_is_clipped_together(closure):
    model = sparse()
    opt = torch.optim.SGD(SPARSE.param_groups(model, lr=0.1), lr=0.1)
    attach_rules(opt, model)
    before = torch.cat([p.detach().clone() for p in logits(model)])
    conv = model.conv0.weight

    def backward() -> torch.Tensor:
        opt.zero_grad()
        loss = 1000 * model(torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))).square().sum()
        loss.backward()
        seen.append((total(logits(model)), total([conv])))
        return loss

    seen: list[tuple[float, float]] = []
    if closure:
        opt.step(backward)
    else:
        backward()
        opt.step()
    assert seen[0][0] > 1
    assert total(logits(model)) == pytest.approx(1, rel=1e-4)
    assert total([conv]) == seen[0][1]
    moved = torch.cat([p.detach() for p in logits(model)]) - before
    assert float(moved.norm()) == pytest.approx(0.01, rel=1e-3)


def test_with_a_grad_scaler_the_unscaled_gradient_is_clipped():
    grads = []
    for scale in (1.0, 1024.0):
        torch.manual_seed(0)
        model = sparse()
        opt = torch.optim.SGD(SPARSE.param_groups(model, lr=0.1), lr=0.1, fused=True)
        attach_rules(opt, model)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        scaler.scale(1000 * model(torch.randn(4, 3, 5, 5)).square().sum()).backward()
        scaler.step(opt)
        grads.append(torch.cat([p.detach() for p in logits(model)]))
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-7)


def test_one_hot_logits_are_moved_by_nothing():
    model = sparse()
    opt = torch.optim.SGD(SPARSE.param_groups(model, lr=10.0), lr=0.1, momentum=0.9)
    attach_rules(opt, model)
    x = torch.randn(4, 3, 5, 5)
    for _ in range(3):  # momentum builds up
        opt.zero_grad()
        model(x).square().sum().backward()
        opt.step()
    for p in logits(model):
        p.data += torch.tensor([0.0, 0.5, 0.1])
    set_progress(model, 0.9)
    model(x)
    assert model.bn0.mean_fixed == 1
    fixed = [p.detach().clone() for p in logits(model)]
    for _ in range(3):
        opt.zero_grad()
        model(x).square().sum().backward()
        opt.step()
        assert all(torch.equal(p, q) for p, q in zip(logits(model), fixed, strict=True))


def test_the_handle_ends_it_and_other_models_are_left_alone():
    plain = conv_net()
    opt = torch.optim.SGD(plain.parameters(), lr=0.1)
    assert attach_rules(opt, plain) is None
    model = sparse()
    opt = torch.optim.SGD(SPARSE.param_groups(model, lr=0.1), lr=0.1)
    assert [finding.rule for finding in SPARSE.verify(opt)] == ["gradients"]
    handle = attach_rules(opt, model)
    assert SPARSE.verify(opt, model=model) == ()
    handle.remove()
    assert [finding.rule for finding in SPARSE.verify(opt)] == ["gradients"]


@pytest.mark.parametrize("inside", [True, False])
def test_under_sam_the_second_gradient_is_clipped_once(inside):
    model = sparse()
    base = torch.optim.SGD(SPARSE.param_groups(model, lr=0.1), lr=0.1)
    sam = SAM(base, model, rho=0.05)
    attach_rules(base if inside else sam, model)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(sam if inside else base, 5)
    assert SPARSE.verify(sam, scheduler, model=model) == SPARSE.verify(base, scheduler) == ()
    before = torch.cat([p.detach().clone() for p in logits(model)])
    x = torch.randn(4, 3, 5, 5)

    def closure() -> torch.Tensor:
        sam.zero_grad()
        loss = 1000 * model(x).square().sum()
        loss.backward()
        return loss

    sam.step(closure)
    assert total(logits(model)) == pytest.approx(1, rel=1e-4)
    moved = torch.cat([p.detach() for p in logits(model)]) - before
    assert float(moved.norm()) == pytest.approx(0.01, rel=1e-3)


class Gate(nn.Module, HasRules):
    TRAINING: ClassVar = {"gate": TrainingRule("gates", lr_divisor=2.0)}

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.ones(3))


def test_anybodys_layer_may_have_rules():
    model = nn.Sequential(Gate(), nn.BatchNorm1d(3))
    groups = normlab.recipe("baseline").param_groups(model, lr=0.1)
    assert groups[-1]["name"] == "gates"
    assert groups[-1]["lr"] == 0.05
    assert groups[-1]["params"] == [model[0].gate]
    official = normlab.recipe("baseline").param_groups(model, lr=0.1, rule="name_shape")
    assert "gates" not in [group["name"] for group in official]


@pytest.mark.parametrize("t", [0.0, 0.25, 1.0])
def test_set_progress_drives_radius_and_alpha(t):
    model = normlab.recipe("norm(to='sparse_switch')").prepare(conv_net())
    assert set_progress(model, t) == 2
    assert model.bn0.radius == t == model.bn1.radius
    whitening = normlab.create("whitening(alpha=0.01)", num_features=3)
    assert set_progress(whitening, t) == 1
    assert whitening.lr_share == pytest.approx((1 + math.cos(math.pi * t)) / 2)
    set_progress(whitening, t, lr_share=0.3)
    assert whitening.lr_share == 0.3
    assert set_progress(conv_net(), t) == 0


def test_alpha_keeps_its_ratio_to_the_learning_rate():
    x = torch.randn(8, 3, 4, 4)
    moved = []
    for share in (1.0, 0.5, 0.0):
        layer = normlab.create("whitening(alpha=0.01)", num_features=3)
        set_progress(layer, 0.5, lr_share=share)
        layer(x)
        moved.append(layer.whitening - torch.eye(3))
    torch.testing.assert_close(moved[1], moved[0] / 2, rtol=1e-4, atol=1e-7)
    assert moved[2].eq(0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"t": 1.5}, "t=1.5 should be between 0, the start of training, and 1, its end"),
        ({"t": math.nan}, "t=nan should be between"),
        ({"t": 0.5, "lr_share": -1.0}, "lr_share=-1.0 should be learning rate now / at the start"),
    ],
)
def test_progress_that_cannot_be(arguments, message):
    with pytest.raises(SpecError, match=message):
        set_progress(conv_net(), **arguments)


STUDY = {
    "name": "small",
    "baseline": "base",
    "seeds": 2,
    "data": {"name": "digits(train=50, validation=50)"},
    "model": {"name": "resnet8(width=2)"},
    "train": {"epochs": 4, "batch_size": 20, "lr": 0.02},
    "arms": {"base": "baseline", "sparse": "norm(to='sparse_switch')", "white": "norm(to='whitening')"},
}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_an_arm_of_a_study(name, tmp_path):
    spec = name if name != "norm" else "norm(to='iebn')"
    study = {**STUDY, "train": {**STUDY["train"], "epochs": 1}, "arms": {"base": "baseline(init='keep')", "arm": spec}}
    job = next(run.job for run in plan(validate(StudySpec, study), "f") if run.arm == "arm")
    assert math.isfinite(train(job, Streams(1), Context(tmp_path))["train_loss"])


@pytest.mark.parametrize("arm", ["sparse", "white"])
def test_the_trainer_drives_them_and_resumes_to_the_same_bits(arm, tmp_path):
    class Stop(Exception):
        pass

    class Stopping(Context):
        def checkpoint(self, state, *, done):
            super().checkpoint(state, done=done)
            raise Stop

    class Keeping(Context):
        def checkpoint(self, state, *, done):
            states.append({key: value.clone() for key, value in state["model"].items()})

    states: list[dict[str, torch.Tensor]] = []
    job = next(run.job for run in plan(validate(StudySpec, STUDY), "f") if run.arm == arm)
    straight = train(job, Streams(1), Keeping(tmp_path))
    if arm == "sparse":
        radii = [float(state["bn1.radius"]) for state in states]
        assert radii == pytest.approx([(epoch + 2 / 3) / 4 for epoch in range(4)])  # three batches an epoch
    for _ in range(4):
        with pytest.raises(Stop):
            train(job, Streams(1), Stopping(tmp_path, checkpoint_seconds=0))
    resumed = train(job, Streams(1), Context(tmp_path))
    assert resumed["train_loss"] == straight["train_loss"]
    np.testing.assert_array_equal(resumed["correct"], straight["correct"])
