"""Which steps are measured, and what is a step."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from normlab import probes as P
from normlab.errors import SpecError
from tests.unit.probes.models import batch, network, train


def loss_of(model, n=8):
    x, t = batch(n)
    return nn.functional.cross_entropy(model(x), t)


@pytest.mark.parametrize(
    ("when", "steps"),
    [({"every": 2}, [0, 2, 4]), ({"steps": [1, 3]}, [1, 3]), ({"steps": range(4, 9)}, [4]), ({}, [0, 1, 2, 3, 4])],
    ids=str,
)
def test_only_chosen_steps_are_measured(when, steps):
    model = network()
    hooks = []

    def count(*_):
        hooks.append(sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) - 1)

    own = model.register_forward_pre_hook(count)
    with P.probe(model, ["stable_rank", "gradient_norm"], **when) as p:
        train(model, 5)
    own.remove()
    assert [row["step"] for row in p.rows] == steps
    assert [step for step, number in enumerate(hooks) if number] == steps
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_loop_without_an_optimizer_tells_its_steps():
    model = network()
    with P.probe(model, "gradient_norm", every=2) as p:
        for _ in range(3):
            model.zero_grad()
            loss_of(model).backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.sub_(parameter.grad, alpha=0.1)
            p.step()
    assert [row["step"] for row in p.rows] == [0, 2]
    with pytest.raises(SpecError, match="inside the block"):
        p.step()


def test_passes_without_steps_are_one_and_said_to_be():
    model = network()
    with pytest.warns(UserWarning, match="its 3 passes count as one step"), P.probe(model, "stable_rank") as p:
        (loss_of(model) + loss_of(model) + loss_of(model)).backward()
    assert [row["step"] for row in p.rows] == [0]


def test_two_optimizers_make_one_step():
    model = network()
    norms = [p for name, p in model.named_parameters() if "bn" in name]
    others = [p for name, p in model.named_parameters() if "bn" not in name]
    pair = torch.optim.SGD(others, lr=0.1), torch.optim.AdamW(norms, lr=0.1)
    stranger = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    with P.probe(model, "gradient_norm") as p:
        for _ in range(3):
            loss_of(model).backward()
            for optimizer in (*pair, stranger):
                optimizer.step()
        for _ in range(3):  # the first is not used any more
            loss_of(model).backward()
            pair[1].step()
    assert p.steps_done == 6
    assert [row["step"] for row in p.rows] == [0, 1, 2, 3, 4, 5]


def test_closures_and_wrapped_optimizers():
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    with P.probe(model, ["gradient_norm", "weight_drift"]) as p:
        optimizer.step(closure)
        optimizer.step(closure)
    assert [row["step"] for row in p.rows] == [0, 1]
    assert p.rows[0]["norm/1/weight_drift/max"] == 0
    assert p.rows[1]["norm/1/weight_drift/max"] > 0


def test_probes_are_used_once():
    model = network()
    p = P.probe(model, "sigma")
    with p:
        train(model, 1)
    with pytest.raises(SpecError, match="have been used"), p:
        pass


def test_numbers_of_steps_may_be_those_of_numpy():
    model = network()
    for numbers, steps in (({"steps": np.linspace(0, 4, 3).astype(int)}, [0, 2, 4]), ({"every": np.int64(3)}, [0, 3])):
        with P.probe(model, "sigma", **numbers) as p:
            train(model, 5)
        assert [row["step"] for row in p.rows] == steps


def test_a_training_that_goes_on_keeps_counting(tmp_path):
    model = network()
    with P.probe(model, "sigma", every=10, start=98, log=tmp_path / "rows.csv") as p:
        train(model, 4)
    assert [row["step"] for row in p.rows] == [100]
    assert p.steps_done == 4
    assert (tmp_path / "rows.csv").read_text().splitlines()[1].startswith("100,")


def test_steps_are_not_counted_twice():
    model = network()
    with P.probe(model, "sigma") as p:
        train(model, 1)
        with pytest.raises(SpecError, match="would end each once more"):
            p.step()
    assert [row["step"] for row in p.rows] == [0]


def test_an_optimizer_that_restores_the_weights_itself():
    """The two-pass SAM that is copied from one repository to the next: an optimizer whose `base_optimizer` steps."""

    class Sam(torch.optim.Optimizer):
        def __init__(self, parameters):
            super().__init__(parameters, {})
            self.base = torch.optim.SGD(self.param_groups, lr=0.1)

        @torch.no_grad()
        def first_step(self):
            for p in self.param_groups[0]["params"]:
                self.state[p]["old"] = p.detach().clone()
                p.add_(p.grad, alpha=0.1)
            self.zero_grad()

        @torch.no_grad()
        def step(self):
            for p in self.param_groups[0]["params"]:
                p.copy_(self.state[p]["old"])
            self.base.step()

    model = network()
    sam = Sam(model.parameters())
    with P.probe(model, ["weight_drift", "gradient_norm"]) as p:
        for step in range(3):
            loss_of(model).backward()
            sam.first_step()
            loss_of(model).backward()
            sam.step()
            if step == 0:
                moved = (model[1].weight.detach() - 1).abs().max().item()
    assert [row["step"] for row in p.rows] == [0, 1, 2]
    assert math.isclose(p.rows[1]["norm/1/weight_drift/max"], moved, rel_tol=1e-6)


def test_a_step_that_the_scaler_skips_counts_with_the_next():
    model = network()
    scaler, optimizer = torch.amp.GradScaler("cpu", init_scale=4.0), torch.optim.SGD(model.parameters(), lr=0.1)
    with P.probe(model, "gradient_norm", scaler=scaler) as p:
        for factor in (1.0, math.inf, 1.0):
            optimizer.zero_grad()
            scaler.scale(factor * loss_of(model)).backward()
            scaler.step(optimizer)
            scaler.update()
    assert [row["step"] for row in p.rows] == [0, 1]
    assert p.nonfinite["norm/1/gradient_norm"] == 1
