"""What a step of SAM does, in each protocol that its docstring shows."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from normlab.optim import SAM
from tests.unit.optim.problems import assert_same_state, batch, by_hand, closure_of, network, sgd, state

NORMS = ("1.", "4.")
INSIDE = {
    "all": lambda name: True,
    "norm": lambda name: name.startswith(NORMS),
    "not_norm": lambda name: not name.startswith(NORMS),
}
FACTORS = {
    "sam": ({}, lambda name, p: 1.0),
    "elementwise": ({"adaptive": "elementwise"}, lambda name, p: p.abs() + 0.01 if "weight" in name else 1.0),
    "all-sizes": (
        {"adaptive": "elementwise", "eta": 0.0, "normalize_bias": True},
        lambda name, p: p.abs(),
    ),
    "layerwise": (
        {"adaptive": "layerwise", "eta": 0.5},
        lambda name, p: p.norm() * 1.5 if "weight" in name else 1.0,
    ),
}


@pytest.mark.parametrize("variant", FACTORS)
@pytest.mark.parametrize("scope", INSIDE)
def test_equals_a_hand_written_two_pass_step(scope, variant):
    options, factor = FACTORS[variant]
    net, (x, t) = network(), batch()
    other = copy.deepcopy(net)
    sam, optimizer = SAM(sgd(net), net, 0.3, scope=scope, **options), sgd(other)
    for _ in range(3):
        sam.step(closure_of(sam, net, x, t))
        by_hand(other, optimizer, x, t, rho=0.3, inside=INSIDE[scope], factor=factor)
        assert_same_state(net, other)


def one_step(net, sam, x, t):
    sam.step(closure_of(sam, net, x, t))


def two_passes(net, sam, x, t):
    sam.zero_grad()
    nn.functional.cross_entropy(net(x), t).backward()
    sam.first_step()
    nn.functional.cross_entropy(net(x), t).backward()
    sam.second_step()


def two_passes_cleared_by_hand(net, sam, x, t):
    sam.zero_grad()
    nn.functional.cross_entropy(net(x), t).backward()
    sam.first_step(zero_grad=False)
    sam.zero_grad()
    nn.functional.cross_entropy(net(x), t).backward()
    sam.second_step(zero_grad=True)


def a_trainer_that_steps(net, sam, x, t):
    """Which calls `step()` after the backward of a training step that did both passes."""
    sam.zero_grad()
    nn.functional.cross_entropy(net(x), t).backward()
    sam.first_step()
    nn.functional.cross_entropy(net(x), t).backward()
    sam.step()


def a_trainer_that_steps_with_a_closure(net, sam, x, t):
    """Lightning's manual optimization passes a closure that does nothing."""
    sam.zero_grad()
    nn.functional.cross_entropy(net(x), t).backward()
    sam.first_step()
    nn.functional.cross_entropy(net(x), t).backward()
    sam.step(lambda: None)


def with_a_scaler(net, sam, x, t):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    sam.zero_grad()
    scaler.scale(nn.functional.cross_entropy(net(x), t)).backward()
    sam.first_step()
    scaler.scale(nn.functional.cross_entropy(net(x), t)).backward()
    scaler.step(sam)
    scaler.update()


def with_a_scaler_that_is_off(net, sam, x, t):
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    sam.zero_grad()
    scaler.scale(nn.functional.cross_entropy(net(x), t)).backward()
    sam.first_step()
    scaler.scale(nn.functional.cross_entropy(net(x), t)).backward()
    scaler.step(sam)


@pytest.mark.parametrize(
    "protocol",
    [
        two_passes,
        two_passes_cleared_by_hand,
        a_trainer_that_steps,
        a_trainer_that_steps_with_a_closure,
        with_a_scaler,
        with_a_scaler_that_is_off,
    ],
)
def test_all_protocols_do_the_same(protocol):
    net, (x, t) = network(), batch()
    other = copy.deepcopy(net)
    options = {"rho": 0.3, "scope": "norm", "adaptive": "elementwise"}
    for _ in range(2):
        one_step(net, SAM(sgd(net), net, **options), x, t)
        protocol(other, SAM(sgd(other), other, **options), x, t)
    assert_same_state(other, net)


def test_a_step_gives_the_loss_at_w():
    net, (x, t) = network(), batch()
    sam = SAM(sgd(net), net, 0.5)
    expected = nn.functional.cross_entropy(copy.deepcopy(net)(x), t)
    assert sam.step(closure_of(sam, net, x, t)) == expected


def test_a_closure_works_under_no_grad():
    net, (x, t) = network(), batch()
    sam = SAM(sgd(net), net)
    before = state(net)
    with torch.no_grad():
        sam.step(closure_of(sam, net, x, t))
    assert not torch.equal(net[0].weight, before["0.weight"])


@pytest.mark.parametrize("parts", [(slice(0, 4), slice(4, 8))], ids=["halves"])
def test_gradient_accumulation_is_the_whole_batch(parts):
    """Without batch statistics, which are those of a micro-batch in plain training too."""
    net, (x, t) = network(lambda c: nn.GroupNorm(2, c)), batch()
    other = copy.deepcopy(net)
    sam, whole = SAM(sgd(net), net, 0.3), SAM(sgd(other), other, 0.3)

    def closure():
        sam.zero_grad()
        losses = []
        for part in parts:
            losses.append(nn.functional.cross_entropy(net(x[part]), t[part]) / len(parts))
            losses[-1].backward()
        return sum(losses)

    for _ in range(2):
        sam.step(closure)
        one_step(other, whole, x, t)
    assert_same_state(net, other)


@pytest.mark.parametrize("protocol", ["closure", "scaler"])
def test_gradient_clipping_is_that_of_the_second_gradients(protocol):
    net, (x, t) = network(), batch()
    other = copy.deepcopy(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    sam, before = SAM(optimizer, net, 0.3), state(net)
    if protocol == "closure":
        inner = closure_of(sam, net, x, t)

        def closure():
            loss = inner()
            nn.utils.clip_grad_norm_(net.parameters(), 0.01)
            return loss

        sam.step(closure)
    else:
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        scaler.scale(nn.functional.cross_entropy(net(x), t)).backward()
        sam.first_step()
        scaler.scale(nn.functional.cross_entropy(net(x), t)).backward()
        scaler.unscale_(sam)
        nn.utils.clip_grad_norm_(net.parameters(), 0.01)
        scaler.step(sam)
    moved = torch.cat([(p - before[name]).flatten() for name, p in net.named_parameters()])
    torch.testing.assert_close(moved.norm(), torch.tensor(0.01, dtype=torch.float64), rtol=1e-3, atol=0)
    unclipped = SAM(torch.optim.SGD(other.parameters(), lr=1.0), other, 0.3)
    one_step(other, unclipped, x, t)
    there = torch.cat([(p - before[name]).flatten() for name, p in other.named_parameters()])
    torch.testing.assert_close(moved / moved.norm(), there / there.norm())
