"""What torch's own tools ask of an optimizer."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from normlab.optim import SAM
from tests.unit.optim.problems import assert_same_state, batch, closure_of, network, sgd, state

BASES = {
    "sgd": lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9, weight_decay=0.01),
    "sgd-foreach": lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9, foreach=True),
    "adamw": lambda ps: torch.optim.AdamW(ps, lr=0.01),
    "adam-fused": lambda ps: torch.optim.Adam(ps, lr=0.01, fused=True),
    "rmsprop": lambda ps: torch.optim.RMSprop(ps, lr=0.01),
}


def train(net, sam, x, t, steps=2):
    for _ in range(steps):
        sam.step(closure_of(sam, net, x, t))


@pytest.mark.parametrize("base", BASES)
def test_the_step_is_the_wrapped_optimizers(base):
    """At rho = 0 the second gradient is the first one."""
    net, (x, t) = network(), batch()
    other = copy.deepcopy(net)
    sam, plain = SAM(BASES[base](net.parameters()), net, 0.0), BASES[base](other.parameters())
    train(net, sam, x, t, 3)
    for _ in range(3):
        closure = closure_of(plain, other, x, t)
        closure()
        plain.step()
    assert_same_state(net, other)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("scheduler_of", ["sam", "base"])
def test_state_dict_round_trip_goes_on_as_without_it(base, scheduler_of):
    net, (x, t) = network(), batch()
    resumed = copy.deepcopy(net)

    def build(model):
        sam = SAM(BASES[base](model.parameters()), model, 0.3, scope="norm")
        return sam, lr_scheduler.StepLR(sam if scheduler_of == "sam" else sam.base, 1, 0.5)

    sam, scheduler = build(net)
    train(net, sam, x, t)
    scheduler.step()
    again, later = build(resumed)
    resumed.load_state_dict(net.state_dict())
    again.load_state_dict(copy.deepcopy(sam.state_dict()))
    later.load_state_dict(scheduler.state_dict())
    assert again.param_groups is again.base.param_groups
    for model, optimizer, schedule in ((net, sam, scheduler), (resumed, again, later)):
        train(model, optimizer, x, t)
        schedule.step()
        train(model, optimizer, x, t)
    assert_same_state(resumed, net)
    assert again.param_groups[0]["lr"] == sam.param_groups[0]["lr"]


def test_checkpoints_are_those_of_the_plain_optimizer():
    net, (x, t) = network(), batch()
    sam, plain = SAM(sgd(net), net), sgd(net)
    train(net, sam, x, t)
    plain.load_state_dict(sam.state_dict())
    fresh = SAM(sgd(net), net)
    fresh.load_state_dict(plain.state_dict())
    torch.testing.assert_close(fresh.state_dict(), sam.state_dict())


SCHEDULERS = {
    "step": lambda o: lr_scheduler.StepLR(o, 1, 0.5),
    "one-cycle": lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=9),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 5),
    "warmup": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1), lr_scheduler.CosineAnnealingLR(o, 5)], [2]
    ),
}


@pytest.mark.parametrize("build", SCHEDULERS.values(), ids=SCHEDULERS)
@pytest.mark.filterwarnings("error")  # of a scheduler that saw no step
def test_schedulers_drive_the_wrapped_optimizer(build):
    net, (x, t) = network(), batch()
    other = copy.deepcopy(net)
    sam, plain = SAM(sgd(net), net), sgd(other)
    schedulers = build(sam), build(plain)
    for _ in range(3):
        train(net, sam, x, t, 1)
        plain.step()
        for scheduler in schedulers:
            scheduler.step()
        assert sam.base.param_groups[0]["lr"] == plain.param_groups[0]["lr"]


def test_a_plateau_is_seen():
    net = network()
    sam = SAM(sgd(net), net)
    scheduler = lr_scheduler.ReduceLROnPlateau(sam, patience=0)
    for _ in range(3):
        scheduler.step(1.0)
    assert sam.base.param_groups[0]["lr"] < 0.1


def test_added_groups_are_perturbed_too():
    net, (x, t) = network(), batch()
    sam, before = SAM(torch.optim.SGD(net[1].parameters(), lr=0.1), net, 0.5), state(net)
    sam.add_param_group({"params": list(net[4].parameters()), "lr": 0.01})
    assert len(sam.base.param_groups) == 2
    nn.functional.cross_entropy(net(x), t).backward()
    sam.first_step()
    moved = [name for name, p in net.named_parameters() if not torch.equal(p, before[name])]
    sam.restore()
    assert moved == ["1.weight", "1.bias", "4.weight", "4.bias"]


def test_hooks_are_called_once_in_a_step():
    net, (x, t) = network(), batch()
    sam, called = SAM(sgd(net), net), []
    sam.register_step_pre_hook(lambda *_: called.append("pre"))
    sam.register_step_post_hook(lambda *_: called.append("post"))
    sam.register_state_dict_post_hook(lambda *_: called.append("state"))
    train(net, sam, x, t, 1)
    sam.state_dict()
    assert called == ["pre", "post", "state"]


def test_a_hook_sees_the_weights_of_before_and_the_gradients_at_w_prime():
    net, (x, t) = network(), batch()
    sam, before = SAM(sgd(net), net, 0.5), state(net)
    seen = {}
    sam.register_step_pre_hook(lambda *_: seen.update({n: p.detach().clone() for n, p in net.named_parameters()}))
    train(net, sam, x, t, 1)
    assert all(torch.equal(p, before[name]) for name, p in seen.items())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["deepcopy", "pickle"])
def test_copies_train_a_model_of_their_own(copied):
    net, (x, t) = network(), batch()
    sam = SAM(sgd(net), net, 0.3, adaptive="elementwise", scope="norm")
    lr_scheduler.StepLR(sam, 1)  # which puts another `step` in its place
    train(net, sam, x, t)
    twin, before = copied(sam), state(net)
    train(twin.model, twin, x, t)
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())
    train(net, sam, x, t)
    assert_same_state(twin.model, net)


def test_zero_grad_clears_what_the_optimizer_holds():
    net, (x, t) = network(), batch()
    sam = SAM(sgd(net), net)
    nn.functional.cross_entropy(net(x), t).backward()
    sam.zero_grad(set_to_none=False)
    assert not any(p.grad.any() for p in net.parameters())
    sam.zero_grad()
    assert all(p.grad is None for p in net.parameters())


def test_rho_may_be_scheduled():
    net, (x, t) = network(), batch()
    sam = SAM(sgd(net), net, 0.5)
    nn.functional.cross_entropy(net(x), t).backward()
    before = torch.cat([p.detach().flatten() for p in net.parameters()])
    for rho in (0.5, 0.25):
        sam.rho = rho
        sam.first_step(zero_grad=False)
        moved = torch.cat([p.detach().flatten() for p in net.parameters()]) - before
        torch.testing.assert_close(moved.norm(), torch.tensor(rho, dtype=torch.float64))
        sam.restore()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("adaptive", [None, "elementwise", "layerwise"])
def test_half_models_are_perturbed_in_their_dtype(dtype, adaptive):
    net, (x, t) = network(lambda c: nn.GroupNorm(2, c)), batch()
    wide = copy.deepcopy(net)
    directions = []
    for model, kind in ((wide, torch.float64), (net, dtype)):
        model.to(kind)
        sam = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model, 1.0, adaptive=adaptive)
        # as a GradScaler would: too much for the norm of half numbers, if it were one
        (1000 * nn.functional.cross_entropy(model(x.to(kind)).double(), t)).backward()
        before = [p.detach().clone() for p in model.parameters()]
        sam.first_step()
        directions.append(
            torch.cat([(p - q).flatten().double() for p, q in zip(model.parameters(), before, strict=True)])
        )
        assert all(p.dtype == kind for p in model.parameters())
        sam.restore()
    assert torch.cosine_similarity(*directions, dim=0) > 0.99
    torch.testing.assert_close(directions[1].norm(), directions[0].norm(), rtol=0.05, atol=0)
