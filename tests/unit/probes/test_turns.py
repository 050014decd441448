"""Steps of several optimizers that take turns."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from normlab import probes as P
from tests.unit.probes.models import loss_of, network


def test_the_discriminator_of_a_gan_has_its_own_steps():
    model = network()
    other, own = (torch.optim.SGD(part.parameters(), lr=0.1) for part in (network(), model))
    with P.probe(model, "gradient_norm") as p:
        for optimizer in (own, own, other, own, own, other):
            loss_of(model).backward()
            optimizer.step()
    assert p.steps_done == 4


class Turns:
    """Parts of one module, each with an optimizer, which take turns; a pass of the i-th multiplies its input by i."""

    def __init__(self, order):
        self.norm = nn.BatchNorm1d(4, affine=False, eps=1e-12).double()
        parts = {name: nn.Linear(4, 4).double() for name in "ABC" if name in order}
        self.model, self.order = nn.ModuleDict({**parts, "norm": self.norm}), order
        self.optimizers = {name: torch.optim.SGD(part.parameters(), lr=0.0) for name, part in parts.items()}
        self.x = torch.randn(8, 4, dtype=torch.float64)

    def go(self, iterations, after=lambda: None):
        """The mean factor of each iteration, by the passes of which σ is multiplied."""
        for i in range(iterations):
            for turn, name in enumerate(self.order):
                factor = 1 + len(self.order) * i + turn
                y = self.norm(factor * self.x + 0 * self.model[name](self.x))
                y.sum().backward()
                self.optimizers[name].step()
            after()
        k = len(self.order)
        return [1 + k * i + (k - 1) / 2 for i in range(iterations)]

    def factors(self, p):
        unit = self.x.std(0, correction=0).mean().item()
        return {row["step"]: round(row["norm/norm/sigma"] / unit, 6) for row in p.rows}


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("order", ["AB", "BA", "ABC", "CAB"])
def test_phases_of_optimizers_that_take_turns_are_not_mixed_with_those_of_the_next_step(order, every):
    turns = Turns(order)
    with P.probe(turns.model, "sigma", every=every) as p:
        true = turns.go(5)
    assert p.steps_done == 5
    assert turns.factors(p) == {step: true[step] for step in range(0, 5, every)}


@pytest.mark.parametrize("order", ["AAB", "BAA", "ABB"])
def test_phases_in_any_order_with_manual_steps(order):
    turns = Turns(order)
    with P.probe(turns.model, "sigma", manual=True) as p:
        true = turns.go(3, after=p.step)
    assert turns.factors(p) == dict(enumerate(true))


def test_an_optimizer_that_steps_twice_before_the_last_one_does():
    """The first iteration counts as its three steps, since nobody can know that another one comes."""
    turns = Turns("AAB")
    with P.probe(turns.model, "sigma") as p:
        true = turns.go(4)
    assert turns.factors(p) == {0: 1, 1: 2, 2: 3, 3: true[1], 4: true[2], 5: true[3]}


@pytest.mark.parametrize("every", [1, 2, 3])
def test_one_optimizer_that_holds_a_part_has_each_step_by_itself(every):
    turns = Turns("AB")
    turns.order = "A"
    with P.probe(turns.model, "sigma", every=every) as p:
        true = turns.go(4)
    assert turns.factors(p) == {step: true[step] for step in range(0, 4, every)}
    with P.probe(turns.model, "sigma") as p:
        turns.go(1)
    assert [row["step"] for row in p.rows] == [0]
    assert p.steps_done == 1


def test_a_step_of_the_first_optimizer_that_a_scaler_skips_mixes_no_phases():
    turns = Turns("AB")
    with P.probe(turns.model, "sigma") as p:
        turns.go(2)
        skipped, turns.optimizers["A"] = turns.optimizers["A"], type("Skips", (), {"step": lambda self: None})()
        turns.go(1)
        turns.optimizers["A"] = skipped
        turns.go(2)
    assert turns.factors(p) == {0: 1.5, 1: 3.5, 2: 1.5, 3: 1.5, 4: 3.5}


def test_an_optimizer_that_ended_the_steps_and_is_used_no_more_is_replaced():
    turns = Turns("AB")
    with P.probe(turns.model, "sigma") as p:
        turns.go(2)
        turns.order = "A"
        turns.go(14)
    assert p.steps_done == 2 + 1 + 3  # 11 of the first count as one


def test_gradients_that_are_held_are_divided_by_the_scale_that_they_had():
    """A first optimizer of a part, whose second step the scaler skips and halves the scale."""
    model = network()
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    optimizer = torch.optim.SGD(model[6].parameters(), lr=0.1)
    with P.probe(model, "gradient_norm") as alone:
        loss_of(model).backward()
    with P.probe(model, "gradient_norm", scaler=scaler) as p:
        for factor in (1.0, float("inf"), 1.0):
            optimizer.zero_grad()
            scaler.scale(factor * loss_of(model)).backward()
            scaler.step(optimizer)
            scaler.update()
    assert scaler.get_scale() == 2
    assert p.rows[0]["norm/1/gradient_norm"] == pytest.approx(alone.last["norm/1/gradient_norm"], rel=1e-4)


@pytest.mark.parametrize(("kept", "steps"), [(True, 4), (False, 5)])
def test_a_new_optimizer_of_the_same_parameters_goes_on_counting(kept, steps):
    """While the old one is there, the first step of the new one is not known to be over, and counts with the next."""
    model, old = network(), []

    def train_with(optimizer, number):
        for _ in range(number):
            loss_of(model).backward()
            optimizer.step()
        if kept:
            old.append(optimizer)

    with P.probe(model, "sigma") as p:
        train_with(torch.optim.SGD(model.parameters(), lr=0.1), 2)
        train_with(torch.optim.AdamW(model.parameters()), 3)
    assert p.steps_done == len(p.rows) == steps
