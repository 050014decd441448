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
        (lambda model: P.sharpness(model[0], closure(model), scope="norm"), "scope='norm' has no parameter"),
        (lambda model: P.loss_slice(model, closure(model), points=4), "points=4"),
        (lambda model: P.loss_slice(model, closure(model), points=5.0), "points=5.0"),
        (lambda model: P.ablation_curve(model, lambda: 1.0, "1"), "accuracy\\(\\) does not call '1'"),
        (lambda model: P.ablation_curve(model, closure(model), "1", orders=[[0, 1]]), "orders of the 6 channels"),
        (lambda model: P.ablation_curve(model, closure(model), "1", points=1), "points=1 should be 2 or more"),
        (lambda model: P.ablation_curve(model, 0.9, "1"), "accuracy is a function that evaluates the model; got 0.9"),
        (lambda model: P.channel_reliance(model, closure(model), "1", channels=[6]), "should be from 0 to 5"),
        (lambda model: P.channel_reliance(model, closure(model), "1", channels=[]), "should be from 0 to 5"),
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
    ids=str,
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
