"""What is healthy, what is not, and what is said about it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import normlab
from normlab.inspect import RANGES, inspect
from normlab.study.models import load_model
from tests.unit.inspect.nets import Added, chain, closed, images, residual, small

FRESH = {
    "timm:resnet18": "8x3x64x64",
    "timm:resnet18(zero_init_last=False)": "8x3x64x64",
    "timm:resnet50": "4x3x64x64",
    "timm:mobilenetv2_100": "4x3x64x64",
    "timm:efficientnet_b0": "4x3x64x64",
    "timm:convnext_atto": "4x3x64x64",
    "timm:vit_tiny_patch16_224": "2x3x224x224",
    "timm:nf_resnet26": "4x3x64x64",
    "resnet8(width=16)": "8x3x16x16",
}


@pytest.mark.parametrize("spec", FRESH)
def test_freshly_built_networks_are_healthy_and_it_is_said_why(spec):
    torch.manual_seed(0)
    report = inspect(load_model(spec), FRESH[spec])
    assert report.healthy, report.statements
    assert not report.statements
    assert not any(row.marks for row in report.rows)
    assert report.verdict.startswith("Healthy: the activation variance ")
    assert "examples are told apart (mean cosine at most 0." in report.verdict


def with_weights(value):
    model = small()
    for at in (1, 4):
        nn.init.constant_(model[at].weight, value)
    return model


def dead_inputs():
    model = small()
    with torch.no_grad():
        model[0].weight.mul_(1e-5)
        model[0].bias.zero_()
    return model


ILL = {
    "group(num_groups=1)": (lambda: chain(lambda c: nn.GroupNorm(1, c)), "mean_cosine", "smaller groups"),
    "scaled weight standardization": (
        lambda: residual("scaled_weight_standardized"),
        "activation_variance",
        "Put a norm behind each convolution",
    ),
    "weight normalization": (lambda: chain_of_kernels("weight_norm"), "mean_cosine", "Put a norm behind"),
    "no norms": (lambda: chain(lambda _: nn.Identity()), "gradient_norm", "Put a norm behind"),
    "instance norm, deep": (lambda: chain(lambda c: nn.GroupNorm(c, c), 80), "gradient_norm", "larger groups"),
    "gamma 5": (lambda: with_weights(5.0), "weight", "Start it smaller"),
    "divides by eps": (dead_inputs, "gradient_factor", "inputs far smaller than eps"),
}


def chain_of_kernels(spec):
    model = chain(lambda _: nn.Identity())
    normlab.convert(model, spec)
    return model


@pytest.mark.parametrize("case", ILL)
def test_what_is_wrong_where_it_begins_and_what_to_do(case):
    build, quantity, advice = ILL[case]
    report = inspect(build(), images(16, 16))
    assert not report.healthy
    assert report.exit_code == 1
    said = next(said for said in report.statements if said.quantity == quantity)
    assert said.grave
    assert said.layers
    assert all(quantity in row.marks for row in report.rows if row.name in said.layers)
    assert advice in str(said)
    assert report.verdict.startswith("Not healthy: ")
    assert said.title in report.verdict
    assert said.begins in report.verdict


def test_advice_that_is_followed_helps():
    model = chain(lambda c: nn.GroupNorm(1, c))
    assert "normlab.convert(model, 'batch')" in inspect(model, images()).statements[0].do
    normlab.convert(model, "batch")
    assert inspect(model, images(16, 16)).healthy
    loud = with_weights(5.0)
    assert "normlab.recipe('revisited(scale=0.1)').prepare(model)" in inspect(loud, images()).statements[0].do
    assert inspect(normlab.recipe("revisited(scale=0.1)").prepare(loud), images()).healthy


def test_a_collapse_begins_where_the_first_layer_no_longer_tells_examples_apart():
    report = inspect(chain(lambda c: nn.GroupNorm(1, c)), images(16, 16))
    said = report.statements[0]
    names = [row.name for row in report.rows]
    first = names.index(said.layers[0])
    assert said.begins == f"at layer {said.layers[0]}"
    assert all(row.mean_cosine <= 0.95 for row in report.rows[:first])
    assert report.rows[first].mean_cosine > 0.95


def test_larger_groups_are_worse():
    worst = {
        groups: max(row.mean_cosine for row in inspect(chain(lambda c, g=groups: nn.GroupNorm(g, c)), images()).rows)
        for groups in (1, 8, 32)
    }
    assert worst[1] > worst[8] > worst[32]


def test_one_layer_with_a_large_scale_is_a_remark():
    model = chain(nn.BatchNorm2d, 6)
    nn.init.constant_(model[4].weight, 5.0)
    report = inspect(model, images())
    assert report.healthy
    assert "There is 1 remark." in report.verdict
    assert [row.name for row in report.rows if row.marks] == ["4"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
def test_values_that_are_not_finite_in_the_batch(value):
    x = images()
    x[0, 0, 0, 0] = value
    report = inspect(small(), x)
    assert not report.healthy
    assert "in the batch itself" in report.statements[0].text
    assert len(report.statements) == 1


@pytest.mark.parametrize(
    ("at", "begins"),
    [(3, "before layer 4"), (4, "in layer 4, which gets finite values")],
    ids=["convolution", "norm"],
)
def test_values_that_are_not_finite_begin_where_they_arise(at, begins):
    model = small()
    with torch.no_grad():
        model[at].weight[0] = float("nan")
    report = inspect(model, images())
    assert report.statements[0].begins == begins
    assert report.rows[0].marks.keys() <= {"gradient_norm"}  # which comes back from there
    assert not report.healthy


def test_gradients_that_are_not_finite():
    class Root(nn.Module):
        def forward(self, x):
            return (x * 0).sqrt()

    model = small()
    model.append(Root())
    report = inspect(model, images())
    assert report.statements[0].title == "gradients are not finite"
    assert report.statements[0].begins == "on the way back at layer 4"


def test_equal_examples_are_suspected_first():
    report = inspect(small(), images(1).repeat(8, 1, 1, 1))
    assert "is the batch of examples that are alike?" in str(report.statements[0])


def square(model, batch):
    return model(batch).square().mean()


@pytest.mark.parametrize("forward", [None, square], ids=["outputs", "loss"])
@pytest.mark.parametrize("places", [(0, 1, 2, 3), (3,), (1,)], ids=["all", "last", "one-amid"])
@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.LayerNorm])
def test_a_plain_chain_that_gamma_0_closes_is_dead(norm, places, forward):
    report = inspect(closed(norm, *places), torch.randn(16, 8), forward=forward)
    assert not report.healthy
    titles = {said.title for said in report.statements if said.grave}
    assert "no gradient comes back" in titles or places == (1,)  # the layers behind tell nothing apart: said otherwise
    if norm is nn.BatchNorm1d and len(places) == 4:
        said = next(said for said in report.statements if said.quantity == "sigma")
        assert (said.begins, said.layers) == ("at layer 4", ("4", "7", "10"))


@pytest.mark.parametrize("forward", [None, square], ids=["outputs", "loss"])
@pytest.mark.parametrize("branches", [1, 3])
def test_branches_closed_by_gamma_0_are_healthy_where_they_are_added_to_something(branches, forward):
    report = inspect(Added(branches), torch.randn(16, 8), forward=forward)
    assert report.healthy
    assert "γ = 0 throughout" in " ".join(report.notes)


def test_a_head_that_starts_at_0_is_healthy_though_it_sends_no_gradient_back():
    model = small()
    nn.init.zeros_(model[-1].weight)
    nn.init.zeros_(model[-1].bias)
    report = inspect(model, images())
    assert report.healthy
    assert "all gradients are 0" in " ".join(report.notes)


def test_values_whose_squares_overflow_are_not_finite_rather_than_alike():
    report = inspect(small(), images() * 1e30)
    assert [said.title for said in report.statements] == ["values are not finite once they are squared"]
    assert report.statements[0].begins == "at layer 1"
    assert not report.healthy


UNKNOWN = {
    "no layer is called": (lambda: nn.MultiheadAttention(8, 2), lambda: (torch.randn(4, 3, 8),) * 3),
    "no batch": (lambda: nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)), lambda: torch.randn(8)),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_where_nothing_could_be_measured_nothing_is_healthy(case):
    model, batch = UNKNOWN[case]
    report = inspect(model(), batch())
    assert report.verdict.startswith("Unknown: ")
    assert not report.verdict.endswith(": .")
    assert (report.healthy, report.exit_code, report.as_json()["healthy"]) == (False, 2, False)


def test_every_range_has_its_reasons_and_words_for_each_side():
    assert len({range.quantity for range in RANGES}) == len(RANGES)
    for range in RANGES:
        assert range.title.keys() == range.wrong.keys() == range.do.keys()
        assert all(text.format(worst=2.0) for text in range.wrong.values())
        assert range.why
