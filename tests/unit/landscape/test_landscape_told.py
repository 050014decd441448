"""What `normlab.landscape` says of what it was given and of what it found: nothing that is not so."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from normlab.errors import SpecError
from normlab.landscape import landscape
from normlab.landscape.text import lines
from tests.unit.probes.models import batch, network

QUICK = {"steps": 4, "points": 3, "only": "curves"}


@pytest.fixture(scope="module")
def full():
    torch.manual_seed(0)
    return landscape(network(), batch(), steps=6, points=3, lr=0.1)


def test_the_loss_after_training_is_the_one_after_the_last_step():
    x, y = batch()
    report = landscape(network(), (x, y), steps=1, points=1, lr=0.5, only="curves", against=None)
    assert len(report.given.losses) == 2
    assert report.given.losses[-1] == report.given.curves[1].loss
    assert report.given.losses[-1] < report.given.losses[0]


def test_accuracy_is_not_that_of_running_statistics_which_lag_behind():
    x, y = batch()
    report = landscape(network(), (x, y), steps=40, points=2, lr=0.3, only="slice", against=None)
    assert "running statistics are taken anew" in " ".join(report.notes)
    middle = report.given.slice.losses[len(report.given.slice.at) // 2]
    assert float(middle) == pytest.approx(report.given.losses[-1], rel=1e-4)  # by batch, which is all of the data


def test_a_trained_model_keeps_its_running_statistics():
    model = network()
    x, y = batch()
    for _ in range(3):
        model(x)
    report = landscape(model, (x, y), steps=0, only="slice", against=None)
    expected = nn.functional.cross_entropy(model.eval()(x), y)
    assert float(report.given.slice.losses[10]) == pytest.approx(expected.item(), rel=1e-6)
    assert not report.notes


def test_nothing_known_is_not_said_to_be_as_smooth():
    report = landscape(network(), batch(), steps=3, points=2, lr=1e30, only="curves")
    assert "is not known" in str(report)
    assert "as smooth" not in str(report)
    assert " at first" in str(report)  # and no last loss


def test_one_run_is_said_to_be_one(full):
    assert "In this run" in str(full)


@pytest.mark.parametrize(
    ("model", "labels", "shown"),
    [
        (network, torch.zeros(8, 4), "8x4 of float32"),
        (network, torch.zeros(8), "8 of float32"),
        (network, torch.zeros(8, 1, dtype=torch.long), "8x1 of int64"),
        (network, torch.zeros(3, dtype=torch.long), "3 of int64"),
        (network, [0] * 8, "a list"),
        (lambda: network()[:4], torch.zeros(8, 8, 8, dtype=torch.long), "8x8x8 of int64"),
    ],
)
def test_labels_are_not_dropped_silently(model, labels, shown):
    report = landscape(model(), (batch()[0], labels), against=None, **QUICK)
    assert f"the labels given, {shown}, were not used: pass loss=" in " ".join(report.notes)
    assert "no labels" not in report.data


def test_labels_beside_a_loss_of_the_models_own_are_not_dropped_silently():
    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, x):
            return self.net(x).square().mean()

    report = landscape(Loss(), batch(), against=None, **QUICK)
    assert "the labels given, 8 of int64, were not used" in " ".join(report.notes)


def test_detached_outputs_are_not_said_to_be_frozen():
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, x):
            return self.net(x).detach()

    with pytest.raises(SpecError, match="detached"):
        landscape(Detached(), batch(), **QUICK)


def test_a_model_whose_features_come_last_is_compared():
    """convert moves the dimensions of what it exchanged around it, in hooks."""
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Flatten(), nn.Linear(56, 4))
    data = torch.randn(8, 7, 6), torch.randint(4, (8,))
    for against in ("none", "group(num_groups=2)"):
        report = landscape(model, data, against=against, steps=2, points=2, only="lipschitz,ablation")
        assert all(row.ratio > 0 for row in report.other.lipschitz[0])
        assert report.other.ablation[0].orders.shape[1] == 8  # channels, and not places


@pytest.mark.parametrize(
    "options",
    [
        {"steps": "a"},
        {"steps": 2.5},
        {"points": "a"},
        {"lr": "a"},
        {"lr": None},
        {"only": 3},
        {"seed": "a"},
        {"seed": 2**70},
        {"loss": 3},
        {"loss": lambda model, batch: None},
        {"loss": lambda model, batch: 1.0},
    ],
)
def test_what_is_no_number_is_told_in_words(options):
    with pytest.raises(SpecError, match=r"should be|got"):
        landscape(network(), batch(), **{**QUICK, **options})


@pytest.mark.parametrize("width", [60, 100])
def test_no_line_is_longer_than_the_terminal(full, width):
    assert max(len(line) for line, _ in lines(full, width)) <= width


def test_columns_stay_where_letters_have_no_ascii(full):
    found = [line for line, _ in lines(full, 100, lambda text: text.replace("β", "beta"))]
    rows = [line for line in found if line.startswith(("  loss variation ", "  effective beta"))]
    assert len({re.match(r"  \D+?\s{2,}\S+\s+\S+", row).end() for row in rows}) == 1
    assert len(rows) == 2
