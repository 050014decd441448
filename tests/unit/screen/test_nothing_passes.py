"""Networks through which nothing passes, labels that are not used, and what else once went unsaid."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from normlab.screen import screen
from normlab.screen.measure import places, run, summarise
from normlab.screen.pool import read_pool
from normlab.seeding import Streams
from tests.unit.screen.nets import Detached, digits, residual

FAST = {"seeds": 1, "batches": 1}


@pytest.mark.parametrize(
    ("between", "says"),
    [
        (lambda x: x * 0, "every example gives the same output"),
        (lambda x: torch.relu(x - 100), "every example gives the same output"),
        (lambda x: x * 0 + 1, "every example gives the same output"),
        (lambda x: x.detach(), "no gradient gets back"),
    ],
    ids=["times-zero", "dead-relu", "constant", "detached"],
)
@pytest.mark.parametrize("batch_size", [1, 16])
def test_a_network_through_which_nothing_passes_is_dead_and_not_healthy(between, says, batch_size):
    model = Detached(nn.Identity(), between)
    found = screen(model, digits(), norms=["batch", "layer", "none"], batch_size=batch_size, **FAST)
    assert not found.healthy
    assert {(one.verdict, one.score) for one in found.ranked} == {("dead", 0.0)}
    assert all(says in one.reason for one in found.ranked)
    assert set(found.ranks) == {1}
    json.dumps(found.as_json(), allow_nan=False)


def test_places_that_give_zeros_do_not_count_as_examples_far_apart():
    class Branch(Detached):
        def __init__(self) -> None:
            super().__init__(nn.Identity())
            self.dead = nn.Conv2d(8, 8, 1, bias=False)

        def forward(self, x):
            x = torch.relu(self.norm(self.conv(x)))
            return self.last((x + self.dead(x * 0)).mean((2, 3)))

    with_branch, without = (
        screen(model, digits(), norms=["layer"], batch_size=16, **FAST).ranked[0]
        for model in (Branch(), Detached(nn.Identity()))
    )
    assert with_branch.verdict != "dead"
    assert with_branch.properties.cosine == pytest.approx(without.properties.cosine)
    assert with_branch.properties.rank == pytest.approx(without.properties.rank)


def test_one_silent_pass_of_three_is_not_a_dead_network_and_two_are():
    model, streams = residual(1, 8), Streams(0)
    batch = read_pool(model, digits(), 16, None).batch(16, streams, 0)
    alive = run(model, places(model), batch, torch.device("cpu"))
    silent = replace(alive, same=True)
    assert summarise([alive] * 3, [alive, alive, silent], 16, []).dead == ""
    assert summarise([alive] * 3, [alive, silent, silent], 16, []).dead.endswith("the same output, in 2 of 3 passes")


@pytest.mark.parametrize(
    ("labels", "used"),
    [
        (torch.randint(0, 4, (64, 6, 6)), True),
        (torch.randint(4, 9, (64, 6, 6)), False),
        (torch.randint(0, 4, (64,)), False),
        (torch.randn(64, 4), False),
    ],
    ids=["of-each-pixel", "out-of-range", "of-the-image", "floats"],
)
def test_labels_that_are_not_used_are_told(labels, used):
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    found = screen(model, (digits(64)[0], labels), norms=["layer"], batch_size=16, **FAST)
    assert found.loss.startswith("cross-entropy with the labels") == used
    assert ("the labels given" in found.loss and "were not used" in found.loss) != used
    assert "no labels" not in found.loss


def test_candidates_of_the_same_score_share_a_rank():
    found = screen(residual(1, 8), digits(), norms=["layer", "batch", "rbn", "none"], batch_size=8, **FAST)
    scores = [one.score for one in found.ranked]
    by_norm = dict(zip((one.norm for one in found.ranked), found.ranks, strict=True))
    assert by_norm["batch"] == by_norm["rbn"]
    assert list(found.ranks) == [1 + sum(other > score for other in scores) for score in scores]
    assert [one["rank"] for one in found.as_json()["ranked"]] == list(found.ranks)


def test_a_candidate_named_twice_is_told():
    found = screen(residual(1, 8), digits(), norms=["batch", " batch", "layer"], batch_size=8, **FAST)
    assert found.notes[-1] == "named more than once, screened once: batch"
    assert len(found.ranked) == 2
