"""What goes wrong with hooks in real training loops: a test for each, named for it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from normlab import probes as P
from normlab.errors import SpecError
from normlab.optim import SAM
from tests.unit.probes.models import EVERY, Block, batch, double_loss, doubled, loss_of, measured, network, same, train


def test_relu_in_place_after_the_norm_overwrites_nothing_that_is_measured():
    plain, in_place = network(), network()
    in_place.load_state_dict(plain.state_dict())
    plain[2], plain[3].relu = nn.ReLU(), nn.ReLU()
    same(measured(plain).last, measured(in_place).last)


def test_a_sum_in_place_before_the_activation_is_not_the_output_of_the_layer():
    """torchvision's `out += identity` returns the very tensor that the norm gave."""
    p = measured(network())
    assert p.places == {"1": "2", "3.bn1": "3.relu"}


def test_a_layer_that_is_called_twice_is_measured_over_both_calls():
    norm = nn.BatchNorm1d(4, affine=False).double()
    model = nn.Sequential(nn.Linear(4, 4).double(), norm, nn.Linear(4, 4).double(), norm)
    x = torch.randn(6, 4, dtype=torch.float64)
    seen = []

    def keep(module, args):
        args[0].retain_grad()
        seen.append(args[0])

    hook = norm.register_forward_pre_hook(keep)
    with P.probe(model, ["conv_std", "gradient_norm", "stable_rank"]) as p:
        model(x).pow(3).sum().backward()
    hook.remove()
    std = sum(y.detach().std(0).mean().item() for y in seen) / 2
    norm_of_both = math.sqrt(sum(y.grad.square().sum().item() for y in seen))
    assert math.isclose(p.last["norm/1/conv_std"], std, rel_tol=1e-12)
    assert math.isclose(p.last["norm/1/gradient_norm"], norm_of_both, rel_tol=1e-9, abs_tol=1e-12)


def test_micro_batches_make_one_step():
    model = network(lambda c: nn.GroupNorm(2, c)).double()
    x, t = batch()
    with P.probe(model, EVERY) as whole:
        nn.functional.cross_entropy(model(x.double()), t).backward()
    with P.probe(model, EVERY) as parts:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for part in range(2):
            half = slice(4 * part, 4 * part + 4)
            (nn.functional.cross_entropy(model(x[half].double()), t[half]) / 2).backward()
        optimizer.step()
    assert len(parts.rows) == 1
    for probe in ("gradient_norm", "gradient_factor", "sigma", "large_values"):  # of each example by itself
        for name in ("1", "3.bn1", "3.bn2"):
            key = f"norm/{name}/{probe}"
            assert math.isclose(parts.last[key], whole.last[key], rel_tol=1e-9, abs_tol=1e-15), key


def test_sam_has_one_row_a_step():
    model = network()
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model, rho=0.1)

    def closure():
        sam.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    with P.probe(model, EVERY) as p:
        for _ in range(2):
            sam.step(closure)
    assert [row["step"] for row in p.rows] == [0, 1]
    assert p.rows[0]["norm/1/weight_drift/max"] == 0  # of the weights themselves, not of the perturbed ones


def test_evaluation_inside_the_loop_is_not_mixed_in():
    model = doubled()
    with P.probe(model, EVERY) as p:
        double_loss(model).backward()
        with torch.no_grad():
            model.eval()(100 * batch()[0].double())
        model.train()
    fresh = doubled()
    fresh.load_state_dict(model.state_dict())
    with P.probe(fresh, EVERY) as q:
        double_loss(fresh).backward()
    same(p.last, q.last, 1e-9)


def test_eval_mode_measures_by_running_statistics():
    model = network().eval()
    with torch.no_grad():
        model[1].running_mean.fill_(0.5), model[1].running_var.fill_(4.0)
    with P.probe(model, ["sigma", "large_values(threshold=0.1)"], mode="eval") as p, torch.inference_mode():
        x = batch()[0]
        convolved = model[0](x)
        model(x)
    assert math.isclose(p.last["norm/1/sigma"], 2.0, rel_tol=1e-6)
    share = (((convolved - 0.5) / 2).abs() > 0.1).double().mean().item()
    assert math.isclose(p.last["norm/1/large_values"], share, abs_tol=1e-3)


def test_nothing_measured_is_said():
    model = network()
    with pytest.warns(UserWarning, match="all passes were in eval mode, and mode='train'"), P.probe(model, "sigma"):
        model.eval()(batch()[0])
    model.train()
    told = pytest.warns(UserWarning, match=r"of the steps 0 to 1, none is among steps=\[7\]")
    with told, P.probe(model, "sigma", steps=[7]):
        train(model, 1)
    with pytest.warns(UserWarning, match="no pass reached a layer"), P.probe(model, "sigma"):
        pass


def test_a_frozen_model_has_no_gradients_and_says_so():
    model = network().requires_grad_(False)
    told = pytest.warns(UserWarning, match="gradient_norm was measured at no layer: nothing before it is trained")
    with told, P.probe(model, ["gradient_norm", "stable_rank"]) as p:
        loss_of(model)
    assert set(p.missing) == {f"norm/{name}/gradient_norm" for name in ("1", "3.bn1", "3.bn2")}
    assert len(p.last) == 3
    with pytest.raises(SpecError, match="weight_drift can be measured at none"):
        P.probe(nn.BatchNorm2d(3, affine=False), "weight_drift")


def test_a_layer_that_no_gradient_reaches_is_named():
    model = nn.Sequential(nn.BatchNorm2d(3), *network())
    with P.probe(model, ["gradient_norm", "gradient_factor"]) as p:
        loss_of(model).backward()
    assert p.missing == {"norm/0/gradient_norm": "nothing before it is trained, so no gradient is computed here"}
    model = network()
    with pytest.warns(UserWarning, match="no gradient came back to it"), P.probe(model, "gradient_norm") as p:
        loss_of(model)


def test_layers_that_a_probe_does_not_fit_are_named():
    from normlab.layers import EvoNormS0

    model = network()
    model[1] = EvoNormS0(6, num_groups=2)
    p = measured(model, ["gradient_factor", "stable_rank"])
    assert list(p.missing) == ["norm/1/gradient_factor"]
    assert "norm/1/stable_rank" in p.last


def test_a_batch_with_nan_is_reported_and_does_not_crash():
    model = network()
    x, t = batch()
    x[3, 1, 2, 2] = math.nan
    with P.probe(model, EVERY) as p:
        loss_of(model).backward()
        p.step()
        loss_of(model, x, t).backward()
        p.step()
    assert math.isnan(p.rows[1]["norm/1/stable_rank"])
    assert p.nonfinite["norm/1/stable_rank"] == 1
    assert {key.split("/")[-1] for key in p.nonfinite} >= {name for name in EVERY if not name.endswith("drift")}
    assert not any("drift" in key for key in p.nonfinite)


def test_outputs_that_are_tuples_and_inputs_by_name():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.block = nn.LayerNorm(4), Block(4)

        def forward(self, x):
            return {"y": (self.norm(input=x), None)}

    model = Two()
    with P.probe(model, ["stable_rank", "sigma"], where=["norm", ""]) as p:
        model(torch.randn(3, 5, 4, requires_grad=True))["y"][0].sum().backward()
    assert set(p.last) == {"norm/norm/stable_rank", "norm/stable_rank", "norm/norm/sigma"}
    assert p.missing == {"norm/sigma": "it is no normalization layer"}


def test_weights_are_those_before_the_step_where_the_model_itself_is_not_called():
    """As in Lightning, whose `training_step` is a method, and with a weight that is clipped after the step."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with P.probe(model, "weight_drift") as p:
        for _ in range(2):
            nn.functional.cross_entropy(model[4:](model[3](model[:3](batch()[0]))), batch()[1]).backward()
            optimizer.step()
            model[1].weight.data.fill_(0.75)
    assert [row["norm/1/weight_drift/max"] for row in p.rows] == [0, 0.25]


def test_a_shared_norm_that_an_activation_follows_once_is_measured_over_both_calls_in_all_steps():
    norm = nn.BatchNorm1d(4, affine=False).double()

    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.act, self.weight = norm, nn.ReLU(), nn.Parameter(torch.ones(1, dtype=torch.float64))

        def forward(self, x):
            return self.act(self.norm(self.weight * x)) + self.norm(3 * x)

    model, x = Shared(), torch.randn(6, 4, dtype=torch.float64)
    with P.probe(model, "activation_variance") as p:
        for _ in range(3):
            model(x).sum().backward()
            p.step()
    y = norm(x).detach()
    expected = (y.relu().var(0).mean() + y.var(0).mean()).item() / 2
    assert all(math.isclose(row["norm/norm/activation_variance"], expected, rel_tol=1e-4) for row in p.rows)
    assert not p.places


def test_two_backward_passes_through_one_forward_pass_are_two():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    x = torch.randn(8, 4)
    with P.probe(model, "gradient_norm") as p:
        model(x).pow(3).sum().backward()
    with P.probe(model, "gradient_norm") as q:
        loss = model(x).pow(3).sum()
        loss.backward(retain_graph=True)
        loss.backward()
    assert math.isclose(q.last["norm/1/gradient_norm"], 2**0.5 * p.last["norm/1/gradient_norm"], rel_tol=1e-4)


def test_a_layer_that_is_replaced_inside_the_block_is_said_to_be():
    model = network()
    told = pytest.warns(UserWarning, match="^1: replaced or removed inside the block, .* from step 2 on")
    with told as warned, P.probe(model, "sigma") as p:
        train(model, 2)
        model[1] = nn.BatchNorm2d(6)
        train(model, 3)
    assert len(warned) == 1
    assert ["norm/1/sigma" in row for row in p.rows] == [True, True, False, False, False]
