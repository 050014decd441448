"""Recalibrated statistics are those of all the data, and nothing else has changed."""

from __future__ import annotations

import copy
from collections import UserDict

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, TensorDataset

from normlab.errors import SpecError
from normlab.layers import SparseSwitchNorm
from normlab.surgery import freeze, recalibrate
from tests.conftest import TOLERANCE
from tests.unit.surgery.models import SPECS, assert_state, data, moments, norm, state

ATOL = TOLERANCE[torch.float64] * 100  # of values up to 100


def small(bn=nn.BatchNorm2d):
    return nn.Sequential(nn.Conv2d(4, 3, 3), bn(3), nn.ReLU(), nn.Conv2d(3, 5, 1), bn(5)).double()


def test_eval_collapse_after_few_updates_is_repaired():
    x = data(16)[0] + 50
    model = small()
    for _ in range(10):
        model(x)
    trained = model(x)
    assert (model.eval()(x) - trained).abs().max() > 0.5  # 35 % of the initial statistics is left
    recalibrate(model, [x])
    torch.testing.assert_close(model(x), trained, rtol=0, atol=1e-9)


def test_large_means_leave_the_digits_of_the_variance():
    model = nn.Sequential(nn.BatchNorm1d(2))
    batches = [torch.randn(64, 2) + 1e4 for _ in range(3)]
    recalibrate(model, batches)
    mean, var = moments([batch.double() for batch in batches])
    torch.testing.assert_close(model[0].running_var.double(), var, rtol=2e-3, atol=0)  # x itself has 1e-3
    torch.testing.assert_close(model[0].running_mean.double(), mean, rtol=1e-7, atol=0)


def test_tiny_variances_are_not_lost_beside_the_initial_one():
    model = nn.Sequential(nn.BatchNorm1d(2))
    batches = [torch.randn(64, 2) * 1e-5 for _ in range(2)]
    recalibrate(model, batches)
    torch.testing.assert_close(
        model[0].running_var.double(), moments([b.double() for b in batches])[1], rtol=1e-5, atol=0
    )


def test_averaged_weights_get_statistics_of_their_own():
    live, batches = small(), data(4, 4)
    averaged = AveragedModel(live)
    for _ in range(3):
        with torch.no_grad():
            for parameter in live.parameters():
                parameter.add_(torch.randn_like(parameter))
        live(batches[0])
        averaged.update_parameters(live)
    count = averaged.n_averaged.clone()
    recalibrate(averaged, batches)
    expected = small()
    expected.load_state_dict(averaged.module.state_dict())
    recalibrate(expected, batches)
    torch.testing.assert_close(averaged.module[4].running_mean, expected[4].running_mean, rtol=0, atol=ATOL)
    assert (averaged.module[1].running_mean - live[1].running_mean).abs().max() > 0.1
    assert averaged.n_averaged == count
    assert live[1].num_batches_tracked == 3


def test_old_statistics_have_no_influence_not_even_nan():
    model, batches = small(), data(4, 3)
    other = copy.deepcopy(model)
    model[1].running_var.fill_(float("nan"))
    model[4].running_mean.fill_(1e30)
    recalibrate(model, batches)
    recalibrate(other, batches)
    assert_state(model, state(other))


@pytest.mark.parametrize("spec", SPECS)
def test_weights_flags_and_random_numbers_are_as_before(spec):
    model = nn.Sequential(norm(spec), nn.Dropout(0.5)).train()
    model[1].eval()
    batches, before, options = data(4, 2), state(model), dict(vars(model[0]))
    if isinstance(model[0], SparseSwitchNorm):
        model[0].set_progress(1.0)  # it would now select, and write to its logits
        before = state(model)
    random = torch.random.get_rng_state()
    recalibrate(model, batches)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert model[0].training
    assert not model[1].training
    assert vars(model[0]).keys() == options.keys()
    moved = {name for name, value in state(model).items() if not torch.equal(value, before[name])}
    assert moved
    assert all("running_" in name or "num_batches_tracked" in name for name in moved)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_dropout_is_off():
    model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm2d(4).double())
    batches = data(4)
    recalibrate(model, batches)
    torch.testing.assert_close(model[1].running_mean, moments(batches)[0], rtol=0, atol=ATOL)


class Branches(nn.Module):
    """One layer runs twice, one for every other batch, one never."""

    def __init__(self):
        super().__init__()
        self.twice, self.sometimes, self.never = (nn.BatchNorm1d(2).double() for _ in range(3))
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        y = self.twice(x) + self.twice(x + 10)
        return self.sometimes(y) if self.calls % 2 else y


def test_layers_that_run_twice_or_not_always_are_weighted_by_what_they_got():
    model = Branches()
    batches = [torch.randn(n, 2, dtype=torch.float64) * n for n in (4, 6, 5)]
    assert recalibrate(model, batches) == {"twice": 30, "sometimes": 9, "never": 0}
    mean, var = moments([torch.cat([x, x + 10]) for x in batches])
    torch.testing.assert_close(model.twice.running_mean, mean, rtol=0, atol=ATOL)
    torch.testing.assert_close(model.twice.running_var, var, rtol=0, atol=ATOL)
    assert (int(model.twice.num_batches_tracked), int(model.sometimes.num_batches_tracked)) == (6, 2)
    assert_state(model.never, state(nn.BatchNorm1d(2).double()))


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x, scale=1.0):
        return self.norm(x * scale)


@pytest.mark.parametrize("kind", ["tensors", "pairs", "lists", "dicts", "loader", "forward"])
def test_batches_may_be_tensors_tuples_or_dicts(kind):
    x, y, model = torch.randn(8, 3), torch.arange(8), Pair()
    forward = None
    batches = {
        "tensors": list(x.split(4)),
        "pairs": list(zip(x.split(4), y.split(4), strict=True)),
        "lists": [[part, 0] for part in x.split(4)],
        "dicts": [UserDict(x=part, scale=1.0) for part in x.split(4)],
        "loader": DataLoader(TensorDataset(x, y), batch_size=4),
        "forward": [{"image": part, "label": 0} for part in x.split(4)],
    }[kind]
    if kind == "forward":

        def forward(model, batch):
            return model(batch["image"])

    recalibrate(model, batches, forward=forward)
    torch.testing.assert_close(model.norm.running_mean, x.mean(0), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"image": torch.ones(4, 3)}, "keys image, and the model takes scale, x. Say it: forward=lambda"),
        ("text", "got str. Say it: forward=lambda"),
        ((["a", "b"], 1), "got a tuple of list"),
    ],
    ids=["keys", "text", "list"],
)
def test_batches_that_nobody_can_read_say_what_would_do(batch, message):
    with pytest.raises(SpecError, match=message):
        recalibrate(Pair(), [batch])


def test_so_many_batches_at_most():
    model = small()
    recalibrate(model, iter(data(4, 3, 2)), batches=2)
    other = small()
    assert model[1].num_batches_tracked == 2
    with pytest.raises(SpecError, match="batches=0 should be 1 or more"):
        recalibrate(other, data(2), batches=0)


@pytest.mark.parametrize("where", ["loader", "forward"])
def test_statistics_are_restored_when_it_fails(where):
    def broken():
        yield from data(4, 3)
        raise OSError("the disk is gone")

    def forward(model, batch):
        if len(batch) == 3:
            raise OSError("the disk is gone")
        return model(batch)

    model = small().train()
    model[1].eval()
    before, flags = state(model), [module.training for module in model.modules()]
    with pytest.raises(OSError, match="the disk is gone"):
        recalibrate(
            model, broken() if where == "loader" else data(4, 3), forward=forward if where == "forward" else None
        )
    assert_state(model, before)
    assert [module.training for module in model.modules()] == flags
    assert all("forward" not in vars(module) for module in model.modules())


def test_nan_in_the_data_is_refused_with_the_name_of_the_layer():
    model, batches = small(), data(4, 3)
    before = state(model)
    batches[1][0, 0, 0, 0] = float("nan")
    with pytest.raises(SpecError, match=r"the statistics of 1 \(BatchNorm2d\) are not finite"):
        recalibrate(model, batches)
    assert_state(model, before)


def test_frozen_layers_stay():
    model, batches = small(), data(4)
    freeze(model[1])
    before = state(model[1])
    assert recalibrate(model, batches).keys() == {"4"}
    assert_state(model[1], before)
    freeze(model)
    with pytest.raises(SpecError, match="all running statistics are frozen"):
        recalibrate(model, batches)


def test_nothing_to_recalibrate_is_an_error():
    with pytest.raises(SpecError, match="the model has GroupNorm"):
        recalibrate(nn.Sequential(nn.GroupNorm(2, 4)), data(2))
    with pytest.raises(SpecError, match="the model has no normalization layer"):
        recalibrate(nn.ReLU(), data(2))
    with pytest.raises(SpecError, match="the loader gave no batches"):
        recalibrate(small(), [])
    with pytest.raises(SpecError, match="no layer with running statistics was called"):
        recalibrate(small(), data(2), forward=lambda model, batch: None)
    with pytest.raises(SpecError, match=r"'0\.weight' has no shape yet"):
        recalibrate(nn.Sequential(nn.LazyBatchNorm2d()), data(2))


def test_a_compiled_model_is_recalibrated_too():
    model, batches = small(), data(4, 3)
    other = copy.deepcopy(model)
    compiled = torch.compile(model, backend="eager")
    compiled.eval()(batches[0])
    recalibrate(compiled, batches)
    recalibrate(other, batches)
    assert_state(model, state(other))
    torch.testing.assert_close(compiled(batches[0]), other.eval()(batches[0]), rtol=0, atol=ATOL)
