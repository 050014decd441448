"""Probes around a training loop: what they give, at which steps and layers, and against what autograd gives."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from normlab import probes as P
from normlab.errors import SpecError, UnknownName
from normlab.recipes.measure import gradient_factors
from tests.unit.probes.models import batch, network, train

EVERY = list(P.PROBES)


def loss_of(model, n=8):
    x, t = batch(n)
    return nn.functional.cross_entropy(model(x), t)


def test_all_probes_at_all_layers_and_steps():
    model = network()
    with P.probe(model, EVERY) as p:
        losses = train(model, 3)
    assert [row["step"] for row in p.rows] == [0, 1, 2]
    names = {"1", "3.bn1", "3.bn2"}
    parts = {f"{role}_drift/{part}" for role in ("weight", "bias") for part in ("mean", "std", "max")}
    single = {name for name in EVERY if not name.endswith("drift")}
    keys = {f"norm/{name}/{one}" for name in names for one in (*single, *parts, "weight_drift/ratio")}
    assert set(p.last) - keys <= {f"norm/{name}/bias_drift/ratio" for name in names}
    assert set(p.last) >= keys
    assert p.missing == {f"norm/{name}/bias_drift/ratio": "" for name in ()}
    assert not p.nonfinite
    assert all(math.isfinite(value) for value in p.last.values())
    assert p.steps_done == len(losses) == 3
    assert p.last == {key: value for key, value in p.rows[-1].items() if key != "step"}


def test_values_are_those_of_autograd_and_of_the_formulas():
    model = network().double()
    x, t = batch()
    x = x.double()
    convolved, activated = {}, {}

    def keep(name):
        def hook(module, args, y):
            y.retain_grad()
            convolved[name] = y

        return hook

    hooks = [
        model[0].register_forward_hook(keep("1")),
        model[3].conv1.register_forward_hook(keep("3.bn1")),
        model[2].register_forward_hook(lambda m, a, y: activated.update({"1": y.detach().clone()})),
    ]
    with P.probe(model, EVERY) as p:
        nn.functional.cross_entropy(model(x), t).backward()
    for hook in hooks:
        hook.remove()
    value = p.last
    for name, y in convolved.items():
        assert math.isclose(value[f"norm/{name}/gradient_norm"], y.grad.norm().item(), rel_tol=1e-12)
        std = y.detach().std((0, 2, 3)).mean().item()
        assert math.isclose(value[f"norm/{name}/conv_std"], std, rel_tol=1e-12)
        var = y.detach().var((0, 2, 3), correction=0)
        assert math.isclose(value[f"norm/{name}/gradient_factor"], (var + 1e-5).rsqrt().mean().item(), rel_tol=1e-12)
        assert math.isclose(value[f"norm/{name}/sigma"], var.sqrt().mean().item(), rel_tol=1e-12)
    after = activated["1"]
    assert math.isclose(value["norm/1/activation_variance"], after.var((0, 2, 3)).mean().item(), rel_tol=1e-12)
    rows = nn.functional.normalize(after.flatten(1), dim=1)
    off = (rows @ rows.T)[~torch.eye(8, dtype=torch.bool)]
    assert math.isclose(value["norm/1/mean_cosine"], off.mean().item(), rel_tol=1e-12)
    rank = 8 / torch.linalg.matrix_norm(rows, 2).square()
    assert math.isclose(value["norm/1/stable_rank"], rank.item(), rel_tol=1e-10)
    assert p.places == {"1": "2", "3.bn1": "3.relu"}


def test_the_output_before_an_addition_is_that_of_the_layer():
    model = network().eval()
    found = []
    hook = model[3].bn2.register_forward_hook(lambda m, a, y: found.append(y.detach().clone()))
    with P.probe(model, "activation_variance", mode="eval") as p, torch.no_grad():
        model(batch()[0])
    hook.remove()
    expected = found[0].var((0, 2, 3)).mean().item()
    assert math.isclose(p.last["norm/3.bn2/activation_variance"], expected, rel_tol=1e-5)


def test_gradient_factors_are_those_that_recipes_report():
    model = network()
    reported, _ = gradient_factors(model, batch()[0])
    with P.probe(model, ["gradient_factor", "large_values(threshold=2)"]) as p, torch.no_grad():
        model(batch()[0])
    for layer in reported:
        assert math.isclose(p.last[f"norm/{layer.name}/gradient_factor"], layer.factor, rel_tol=1e-5)
    assert 0.02 < p.last["norm/1/large_values"] < 0.1  # of a Gaussian 4.6 % are beyond 2


def test_drift_is_measured_before_the_step():
    model = network()
    with P.probe(model, ["weight_drift", "bias_drift"]) as p:
        train(model, 2)
        moved = model[1].weight.detach() - 1
        train(model, 1)
    assert p.rows[0]["norm/1/weight_drift/max"] == 0
    assert math.isclose(p.rows[2]["norm/1/weight_drift/mean"], moved.mean().item(), rel_tol=1e-4)
    assert math.isclose(p.rows[2]["norm/1/weight_drift/max"], moved.abs().max().item(), rel_tol=1e-6)
    assert math.isclose(p.rows[2]["norm/1/weight_drift/ratio"], 1 + moved.mean().item(), rel_tol=1e-6)


def test_drift_from_a_given_value():
    model = network()
    with P.probe(model, "weight_drift(initial=0.25)") as p, torch.no_grad():
        model(batch()[0])
    assert p.last["norm/1/weight_drift/mean"] == 0.75
    assert p.last["norm/1/weight_drift/ratio"] == 4


def test_layers_by_pattern_and_by_function():
    model = network()
    with P.probe(model, ["conv_std", "gradient_norm", "activation_variance"], where="3.conv*") as p:
        train(model, 1)
    assert {key.split("/")[1] for key in p.last} == {"3.conv1", "3.conv2"}
    with P.probe(model, "conv_std", where=lambda name, module: isinstance(module, nn.Linear)) as q:
        train(model, 1)
    assert list(q.last) == ["norm/6/conv_std"]


def test_convolutions_are_measured_at_their_outputs():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 4))
    x, t = batch()
    kept = []
    hook = model[0].register_forward_hook(lambda m, a, y: kept.append(y.detach().clone()))
    zero = torch.zeros(8, 4, 6, 6, requires_grad=True)
    shift = model[0].register_forward_hook(lambda m, a, y: y + zero)  # whose gradient is that of the output
    with P.probe(model, ["conv_std", "gradient_norm", "activation_variance"], where="0") as p:
        nn.functional.cross_entropy(model(x), t).backward()
    hook.remove(), shift.remove()
    assert math.isclose(p.last["norm/0/conv_std"], kept[0].std((0, 2, 3)).mean().item(), rel_tol=1e-5)
    assert math.isclose(p.last["norm/0/gradient_norm"], zero.grad.norm().item(), rel_tol=1e-5)
    expected = kept[0].relu().var((0, 2, 3)).mean().item()
    assert math.isclose(p.last["norm/0/activation_variance"], expected, rel_tol=1e-5)


def test_a_norm_at_the_root_has_no_name():
    layer = nn.BatchNorm1d(4)
    with P.probe(layer, ["gradient_factor", "weight_drift"]) as p:
        layer(torch.randn(8, 4))
    assert set(p.last) == {"norm/gradient_factor", *(f"norm/weight_drift/{x}" for x in ("mean", "std", "max", "ratio"))}


def test_features_that_come_last():
    layer = nn.LayerNorm(6)
    x = torch.randn(4, 5, 6)
    with P.probe(layer, ["activation_variance", "conv_std", "gradient_factor"]) as p:
        y = layer(x)
    expected = y.detach().reshape(-1, 6).var(0).mean().item()
    assert math.isclose(p.last["norm/activation_variance"], expected, rel_tol=1e-5)
    assert math.isclose(p.last["norm/conv_std"], x.reshape(-1, 6).std(0).mean().item(), rel_tol=1e-5)
    factor = (x.var(-1, correction=0) + 1e-5).rsqrt().mean().item()
    assert math.isclose(p.last["norm/gradient_factor"], factor, rel_tol=1e-5)


def test_unknown_names_are_told_with_the_nearest():
    model = network()
    with pytest.raises(UnknownName, match="unknown probe 'gradient_factr'; did you mean 'gradient_factor'"):
        P.probe(model, ["stable_rank", "gradient_factr"])
    with pytest.raises(UnknownName, match="unknown argument of probe 'large_values': 'treshold'"):
        P.probe(model, "large_values(treshold=3)")
    with pytest.raises(UnknownName, match=r"unknown layer '3.bn3'; did you mean '3.bn"):
        P.probe(model, "stable_rank", where="3.bn3")
    with pytest.raises(UnknownName, match="unknown mode 'training'"):
        P.probe(model, "stable_rank", mode="training")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"probes": []}, "names nothing to measure"),
        ({"probes": ["sigma", "sigma"]}, "names one twice"),
        ({"every": 0}, "every=0 should be a number of steps"),
        ({"every": 2, "steps": [1]}, "give one of them"),
        ({"steps": []}, "should be numbers of steps"),
        ({"steps": [-1]}, "should be numbers of steps"),
        ({"steps": 5}, r"steps=5 should be numbers of steps, from 0 on, as in steps=\[0, 10, 100\]"),
        ({"steps": [0.5]}, "should be numbers of steps"),
        ({"every": 2.5}, "every=2.5 should be a number of steps"),
        ({"every": True}, "every=True should be a number of steps"),
        ({"start": -1}, "start=-1 should be the number of a step"),
        ({"probes": None}, r"probes are named by strings, as in \['sigma', 'stable_rank'\]; got None"),
        ({"probes": [P.sigma]}, "a probe is named by a string"),
        ({"where": 5}, "where takes names, patterns, or a function of name and module; got 5"),
        ({"where": nn.BatchNorm2d}, "where takes names"),
        ({"scaler": 1.0}, "scaler is the GradScaler of the training; got 1.0"),
        ({"where": lambda name, module: False}, "chooses none"),
        ({"probes": "gradient_factor", "where": "3.conv1"}, "can be measured at none of the 1 layers: of 3.conv1"),
        ({"model": nn.Linear(2, 2)}, "Linear has no normalization layer to probe"),
        ({"model": nn.LazyBatchNorm2d()}, "has no shape yet"),
        ({"model": "resnet18"}, "takes a torch module"),
        ({"probes": "large_values(threshold=-1)"}, "threshold=-1"),
        ({"probes": "weight_drift(initial=1e999)"}, "initial=inf"),
        ({"log": "rows.txt"}, "should end in .jsonl or .csv"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_makes_no_sense_is_refused(arguments, match):
    with pytest.raises(SpecError, match=match):
        P.probe(**({"model": network(), "probes": "sigma"} | arguments))


def test_inputs_that_are_no_batches_are_named():
    layer = nn.LayerNorm(4)
    with pytest.warns(UserWarning, match=r"its input \[4\] is no batch"), P.probe(layer, "sigma") as p:
        layer(torch.randn(4))
    assert not p.rows
