"""Sparse Switchable Norm selects: its weights become one-hot as the radius grows, and then stay."""

from __future__ import annotations

import pytest
import torch

from normlab.errors import SpecError
from normlab.layers import create

LOGITS = {"mean_logits": [0.9, 1.3, 1.0], "var_logits": [1.2, 0.7, 1.1]}


def layer(spec="sparse_switch"):
    found = create(spec, num_features=6, dtype=torch.float64)
    with torch.no_grad():
        for name, value in LOGITS.items():
            found.get_parameter(name).copy_(torch.tensor(value))
    return found


def step(norm):
    norm.zero_grad()
    norm(torch.randn(4, 6, 3, 5).double()).square().mul(torch.randn(6, 1, 1).double()).sum().backward()


def fixed(norm):
    return norm.mean_fixed.item(), norm.var_fixed.item()


@pytest.mark.parametrize("centre", ["edge", "simplex"])
def test_all_is_selected_at_the_end_and_nothing_before_it_starts(centre):
    norm = layer(f"sparse_switch(centre={centre!r})")
    step(norm)
    assert fixed(norm) == (0, 0)
    assert norm.mean_logits.tolist() == pytest.approx(LOGITS["mean_logits"])
    for progress in torch.linspace(0, 0.82, 42):
        norm.set_progress(progress.item())
        step(norm)
    assert fixed(norm) == (1, 1)
    assert norm.mean_logits.tolist() == [0, 1, 0]
    assert norm.var_logits.tolist() == [1, 0, 0]


def test_what_is_selected_stays_whatever_becomes_of_logits_and_radius():
    norm = layer()
    norm.set_progress(1.0)
    step(norm)
    norm.set_progress(0.0)
    optimizer = torch.optim.SGD(norm.parameters(), lr=10.0, momentum=0.9)
    for _ in range(3):
        step(norm)
        assert norm.mean_logits.grad.eq(0).all()
        assert norm.var_logits.grad.eq(0).all()
        assert norm.weight.grad.abs().min() > 0
        optimizer.step()
    assert norm.mean_logits.tolist() == [0, 1, 0]
    assert norm.var_logits.tolist() == [1, 0, 0]


def test_means_and_variances_are_selected_apart():
    norm = layer()
    with torch.no_grad():
        norm.mean_logits.copy_(torch.tensor([0.0, 0.0, 2.0]))
    step(norm)
    assert fixed(norm) == (1, 0)
    assert norm.mean_logits.tolist() == [0, 0, 1]
    assert norm.mean_logits.grad.eq(0).all()
    assert norm.var_logits.grad.abs().max() > 0


def test_eval_mode_selects_nothing():
    norm = layer().eval()
    norm.set_progress(1.0)
    x = torch.randn(4, 6, 3, 5).double()
    y = norm(x)
    assert fixed(norm) == (0, 0)
    assert norm.mean_logits.tolist() == pytest.approx(LOGITS["mean_logits"])
    norm.mean_fixed.fill_(1)
    norm.var_fixed.fill_(1)
    torch.testing.assert_close(norm(x), y, rtol=0, atol=0)


def test_the_batch_is_counted_after_another_norm_was_selected():
    norm = layer()
    norm.set_progress(1.0)
    for count in range(1, 4):
        step(norm)
        assert norm.num_batches_tracked == count
    assert norm.running_mean.abs().min() > 0


@pytest.mark.parametrize("progress", [-0.1, 1.1, float("nan")])
def test_progress_is_a_share(progress):
    norm = layer()
    with pytest.raises(SpecError, match="between 0, the start of training, and 1, its end"):
        norm.set_progress(progress)
    assert norm.radius.item() == 0
