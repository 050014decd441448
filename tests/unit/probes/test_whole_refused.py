"""What cannot be measured of a whole model, and what is said then."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from normlab import probes as P
from normlab.errors import SpecError, UnknownName
from tests.unit.probes.models import batch, network


def closure(model, dtype=torch.float32):
    x, t = batch()
    return lambda: nn.functional.cross_entropy(model(x.to(dtype)), t)


@pytest.mark.parametrize(
    ("run", "match"),
    [
        (
            lambda model: P.landscape(model.requires_grad_(False), closure(model)),
            "a gradient: the model is frozen",
        ),
        (lambda model: P.landscape(model, lambda: model(batch()[0])), r"should give one number .* got \[8, 4\]"),
        (lambda model: P.sharpness(model, lambda: 1.0), "got float"),
        (lambda model: P.landscape(model, lambda: torch.zeros(())), "depends on no parameter"),
        (lambda model: P.landscape(model, closure(model), step_sizes=[0.0]), "none of them 0"),
        (lambda model: P.landscape(model, lambda: 0 * closure(model)()), "gradient of the loss is 0"),
        (lambda model: P.internal_covariate_shift(model, closure(model), lr=math.nan), "lr=nan"),
        (lambda model: P.sharpness(model, closure(model), rho=-1), "rho=-1"),
        (lambda model: P.sharpness(model, closure(model), rho="a"), "rho='a'"),
        (lambda model: P.internal_covariate_shift(model, closure(model), lr="a"), "lr='a'"),
        (lambda model: P.internal_covariate_shift(model, closure(model), lr=-1), "lr=-1"),
        (lambda model: P.landscape(model, closure(model), step_sizes=0.1), "list of numbers; got 0.1"),
        (lambda model: P.landscape(model, closure(model), step_sizes=["a"]), "none of them 0"),
        (lambda model: P.loss_slice(model, closure(model), seed="a"), "seed is an integer"),
        (lambda model: P.channel_reliance(model, closure(model), "1", channels="a"), "numbers from 0 to 5"),
        (lambda model: P.channel_reliance(model, closure(model), "1", channels=[1.5]), "numbers from 0 to 5"),
        (lambda model: P.channel_reliance(model, closure(model), "1", channels=3), "channels is a list"),
        (lambda model: P.ablation_curve(model, closure(model), "1", orders=[[0.5, "a"]]), "orders of the 6"),
        (lambda model: P.sharpness(model[0], closure(model), scope="norm"), "scope='norm' has no parameter"),
        (lambda model: P.loss_slice(model, closure(model), points=4), "points=4"),
        (lambda model: P.loss_slice(model, closure(model), points=5.0), "points=5.0"),
        (lambda model: P.ablation_curve(model, lambda: 1.0, "1"), "accuracy\\(\\) does not call '1'"),
        (lambda model: P.ablation_curve(model, closure(model), "1", orders=[[0, 1]]), "orders of the 6 channels"),
        (lambda model: P.ablation_curve(model, closure(model), "1", points=1), "points=1 should be 2 or more"),
        (lambda model: P.ablation_curve(model, 0.9, "1"), "accuracy is a function that evaluates the model; got 0.9"),
        (lambda model: P.channel_reliance(model, closure(model), "1", channels=[6]), "numbers from 0 to 5"),
        (lambda model: P.channel_reliance(model, closure(model), "1", channels=[]), "numbers from 0 to 5"),
        (lambda model: P.landscape(model, closure(model), step_sizes=[math.nan]), "none of them 0"),
        (lambda model: P.landscape(model, closure(model)()), "loss is a function, as lambda"),
        (lambda model: P.landscape("resnet18", closure(model)), "the model is a torch module; got 'resnet18'"),
        (lambda model: P.channel_reliance(model, closure(model), "1", fill="noise"), "fill='noise'"),
        (lambda model: P.batch_dependence(model, batch(3)[0]), "a batch of 3 cannot be halved"),
        (lambda model: P.spectral_norm(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), (3,)), "is not linear"),
        (lambda model: P.layerwise_spectral_norms(model, lambda: None), "calls no linear layer"),
        (lambda model: P.layer_strengths(network(lambda c: nn.GroupNorm(2, c)), closure(model)), "no batch norm"),
        (lambda model: P.regularisation_strength(torch.zeros(3), batch_size=0, excess_kurtosis=0, fisher=1), "size=0"),
        (lambda model: P.lipschitz_identity(torch.zeros(3, 2), torch.zeros(2, 3)), "of one shape"),
    ],
)
def test_what_cannot_be_measured_is_refused(run, match):
    with pytest.raises(SpecError, match=match):
        run(network())


def test_unknown_names():
    model = network()
    with pytest.raises(UnknownName, match=r"unknown layer '3\.bn3'; did you mean '3\.bn"):
        P.ablation_curve(model, closure(model), "3.bn3")
    with pytest.raises(UnknownName, match="unknown scope 'norms'; did you mean 'norm'"):
        P.sharpness(model, closure(model), scope="norms")


def test_a_loss_that_is_nan_is_reported():
    model = network()
    x, t = batch()
    x[0, 0, 0, 0] = math.nan
    found = P.sharpness(model, lambda: nn.functional.cross_entropy(model(x), t))
    assert math.isnan(found.value)
    assert math.isnan(P.landscape(model, lambda: nn.functional.cross_entropy(model(x), t)).effective_beta)


def test_an_unknown_layer_lists_no_empty_name():
    model = network()
    with pytest.raises(UnknownName, match=r"Known: 0, 1"):
        P.ablation_curve(model, closure(model), "bn")


WHOLE = [
    P.landscape,
    P.sharpness,
    P.loss_slice,
    P.lipschitz_ratios,
    P.layer_strengths,
    P.layerwise_spectral_norms,
    lambda model, loss: P.internal_covariate_shift(model, loss, lr=0.1),
    lambda model, loss: P.ablation_curve(model, loss, "0"),
    lambda model, _: P.batch_dependence(model, batch()[0]),
]


@pytest.mark.parametrize("measure", WHOLE)
def test_models_without_values_are_refused(measure):
    meta = network().to("meta")
    with pytest.raises(SpecError, match="meta device"):
        measure(meta, closure(meta))
    lazy = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d())
    with pytest.raises(SpecError, match="being lazy"):
        measure(lazy, closure(lazy))


def _broken():
    layer = nn.Linear(3, 4)
    nn.init.constant_(layer.weight, math.nan)
    return layer


@pytest.mark.parametrize(
    ("layer", "shape", "match"),
    [
        (nn.Linear(3, 4), (5,), r"takes no example of shape \[5\]"),
        (nn.Conv2d(3, 4, 3), (3, 2, 2), "takes no example"),
        (nn.Conv2d(3, 4, 3), "3x8x8", "should be the sizes"),
        (nn.Embedding(3, 4), (2,), "takes no example"),
        (nn.LazyLinear(3), (3,), "being lazy"),
        (nn.Linear(3, 3, device="meta"), (3,), "meta device"),
        (_broken(), (3,), "NaN or infinity"),
    ],
    ids=str,
)
def test_a_layer_without_a_spectral_norm_says_why(layer, shape, match):
    with pytest.raises(SpecError, match=match):
        P.spectral_norm(layer, shape)


@pytest.mark.parametrize("given", [None, "x", torch.ones(3)], ids=str)
def test_an_accuracy_that_is_no_number(given):
    model = network()

    def accuracy():
        model(batch()[0])
        return given

    with pytest.raises(SpecError, match="should give one number"):
        P.ablation_curve(model, accuracy, "1", orders=2)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"batch_size": 2.5}, r"batch_size=2\.5"),
        ({"fisher": -1.0}, "fisher=-1.0 should be 0 or more"),
        ({"fisher": torch.ones(3)}, r"fisher should be .* got \[3\]"),
        ({"fisher": "a"}, "fisher should be numbers"),
        ({"preactivation": torch.zeros(0)}, r"got \[0\]"),
        ({"preactivation": 3.0}, "is a tensor"),
    ],
    ids=str,
)
def test_a_strength_of_numbers_that_are_none(options, match):
    given = {"preactivation": torch.zeros(10), "batch_size": 8, "excess_kurtosis": 0.0, "fisher": 0.1, **options}
    with pytest.raises(SpecError, match=match):
        P.regularisation_strength(given.pop("preactivation"), **given)
