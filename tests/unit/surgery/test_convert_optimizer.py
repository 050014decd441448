"""An optimizer trains what the model has after surgery, or somebody says that it does not."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from normlab.errors import SpecError
from normlab.surgery import convert


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))


def step(model, optimizer):
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.zero_grad()
    model(torch.randn(4, 3, 8, 8)).square().mean().backward()
    optimizer.step()
    assert all(p.isfinite().all() for p in model.parameters())
    return [name for (name, p), was in zip(model.named_parameters(), before, strict=True) if not torch.equal(p, was)]


def names(model, optimizer):
    """The names of the parameters in each group; None for a stranger."""
    known = {id(p): name for name, p in model.named_parameters()}
    return [[known.get(id(p)) for p in group["params"]] for group in optimizer.param_groups]


def groups(model):
    norm = [p for name, p in model.named_parameters() if name[0] in "14"]
    rest = [p for name, p in model.named_parameters() if name[0] in "03"]
    return [{"params": norm, "weight_decay": 0.0, "lr": 0.01}, {"params": rest}]


@pytest.mark.parametrize("cls", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adagrad])
def test_without_new_parameters_the_optimizer_goes_on_as_it_was(cls):
    model = net()
    optimizer = cls(model.parameters(), lr=0.1)
    step(model, optimizer)
    state = copy.deepcopy(optimizer.state_dict())
    record = convert(model, "group(num_groups=2)")
    record.check(optimizer)
    torch.testing.assert_close(optimizer.state_dict(), state)
    assert len(step(model, optimizer)) == 8


def test_new_parameters_join_the_group_of_their_layer():
    model = net()
    optimizer = torch.optim.AdamW(groups(model), lr=0.1)
    step(model, optimizer)
    record = convert(model, "switch", optimizer=optimizer)
    record.check(optimizer)
    first, second = names(model, optimizer)
    assert first == [
        "1.weight",
        "1.bias",
        "4.weight",
        "4.bias",
        "1.mean_logits",
        "1.var_logits",
        "4.mean_logits",
        "4.var_logits",
    ]
    assert second == ["0.weight", "0.bias", "3.weight", "3.bias"]
    assert set(record.new) == set(first[4:])
    assert len(step(model, optimizer)) == 12


def test_removed_parameters_leave_groups_and_state():
    model = net()
    optimizer = torch.optim.AdamW(groups(model), lr=0.1)
    step(model, optimizer)
    gone = [model[1].weight, model[4].weight]
    record = convert(model, "mean_only", optimizer=optimizer)
    assert set(record.gone) == {"1.weight", "4.weight"}
    assert names(model, optimizer)[0] == ["1.bias", "4.bias"]
    assert not any(p in optimizer.state for p in gone)
    assert len(optimizer.state) == 6
    assert len(step(model, optimizer)) == 6


def test_reverting_puts_the_optimizer_back_to_the_bit():
    model = net()
    optimizer = torch.optim.AdamW(groups(model), lr=0.1)
    step(model, optimizer)
    state, held = copy.deepcopy(optimizer.state_dict()), names(model, optimizer)
    order = [id(p) for p in optimizer.state]
    record = convert(model, "switch(affine=False)", optimizer=optimizer)
    record.revert()
    assert names(model, optimizer) == held
    assert [id(p) for p in optimizer.state] == order
    torch.testing.assert_close(optimizer.state_dict(), state, rtol=0, atol=0)
    record = convert(model, "switch", optimizer=optimizer)
    step(model, optimizer)
    record.revert()
    record.check(optimizer)
    assert len(optimizer.state) == 8
    assert len(step(model, optimizer)) == 8


def test_stale_and_missing_parameters_are_found():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    record = convert(model, "switch(affine=False)")
    with pytest.raises(SpecError, match=r"holds 1.weight, 1.bias, 4.weight and 1 more, .* and lacks 1.mean_logits"):
        record.check(optimizer)
    record.check(torch.optim.SGD(model.parameters(), lr=0.1))
    record.revert()
    record.check(optimizer)
    assert "4 new parameters, 0 gone: an optimizer made before needs" in str(convert(model, "switch"))


def test_a_failure_leaves_the_optimizer_as_it_was():
    model = nn.Sequential(nn.BatchNorm2d(4, affine=False), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    optimizer = torch.optim.SGD([{"params": model[1].parameters()}, {"params": model[2].parameters()}], lr=0.1)
    held = names(model, optimizer)
    with pytest.raises(SpecError, match=r"0 had no parameter.*which of the 2 groups.*add_param_group"):
        convert(model, "switch", optimizer=optimizer)
    assert names(model, optimizer) == held
    assert type(model[2]) is nn.BatchNorm2d
    with pytest.raises(SpecError, match="should have param_groups and state"):
        convert(model, "batch", optimizer=[*model.parameters()])


def test_a_layer_without_parameters_joins_the_only_group():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    convert(model, "switch", optimizer=optimizer)
    assert names(model, optimizer) == [["0.weight", "0.bias", "1.mean_logits", "1.var_logits"]]


def test_layers_that_the_optimizer_does_not_train_stay_out():
    model = net()
    model[1].requires_grad_(False)
    optimizer = torch.optim.SGD(model[3:].parameters(), lr=0.1)
    record = convert(model, "switch", optimizer=optimizer)
    assert "1.mean_logits" not in names(model, optimizer)[0]
    record.check(optimizer)


def test_learning_rate_schedules_go_on():
    model = net()
    optimizer = torch.optim.SGD(groups(model), lr=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=[0.01, 0.1], total_steps=10)
    convert(model, "switch", optimizer=optimizer)
    step(model, optimizer)
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == schedule.get_last_lr()
