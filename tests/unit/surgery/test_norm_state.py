"""A state goes back bit for bit, and several merge into what their data together would give."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from normlab.errors import SpecError
from normlab.layers import BatchNorm
from normlab.surgery import norm_state, recalibrate
from tests.conftest import TOLERANCE
from tests.unit.surgery.models import NOT_POOLED, SPECS, assert_state, data, norm, state

ATOL = TOLERANCE[torch.float64] * 100


def network():
    return nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.GroupNorm(2, 4)).double()


def test_parameters_statistics_and_counters_by_their_keys():
    found = norm_state(network())
    assert list(found.parameters) == ["1.weight", "1.bias", "3.weight", "3.bias"]
    assert list(found.statistics) == ["1.running_mean", "1.running_var"]
    assert list(found.counters) == ["1.num_batches_tracked"]
    assert list(found.layers) == ["1"]


def test_a_batch_of_nan_is_rolled_back():
    model, scaler = network(), torch.amp.GradScaler("cpu", init_scale=4.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(data(4)[0])
    before, snapshot = state(model), norm_state(model)
    loss = model(data(4)[0] * float("nan")).sum()
    scaler.scale(loss).backward()
    scaler.step(optimizer)  # which is skipped, and the statistics are not
    assert model[1].running_mean.isnan().all()
    held = model[1].running_mean
    snapshot.load(model)
    assert_state(model, before)
    assert model[1].running_mean is held


@pytest.mark.parametrize("spec", SPECS)
def test_every_norm_goes_back_bit_for_bit_also_through_pickle(spec):
    layer = norm(spec)
    layer(data(4)[0])
    before, snapshot = state(layer), pickle.loads(pickle.dumps(norm_state(layer)))
    with torch.no_grad():
        for value in (*layer.parameters(), *layer.buffers()):
            value.copy_(torch.full_like(value, 7))
    snapshot.load(layer)
    assert_state(layer, before)


@pytest.mark.parametrize("spec", SPECS)
def test_equal_states_merge_to_themselves(spec):
    layer = norm(spec)
    for batch in data(4, 4):
        layer(batch)
    before = state(layer)
    snapshot = norm_state(layer)
    snapshot.merge([snapshot, snapshot], [1, 2, 3]).load(layer)
    assert_state(layer, before, atol=1e-12)


WITHOUT_MEAN = ("variance", "evo_b0")
WHOLE = [s for s in SPECS if s not in (*NOT_POOLED, *WITHOUT_MEAN) and not s.startswith("instance")]


@pytest.mark.parametrize("spec", WHOLE)
def test_clients_that_saw_other_data_merge_to_all_of_it(spec):
    clients, batches = [nn.Sequential(norm(spec)) for _ in range(2)], data(6, 2)
    clients[1].load_state_dict(clients[0].state_dict())
    whole, x = copy.deepcopy(clients[0]), data(3)[0]
    for client, batch in zip(clients, batches, strict=True):
        recalibrate(client, [batch])
    recalibrate(whole, [torch.cat(batches)])
    first, second = map(norm_state, clients)
    first.merge([second], weights=[6, 2]).load(clients[0])
    torch.testing.assert_close(clients[0].eval()(x), whole.eval()(x), rtol=0, atol=ATOL)


def test_the_integer_counter_is_no_average():
    models = [network() for _ in range(3)]
    for times, model in enumerate(models):
        for _ in range(times):
            model(data(4)[0])
    first, *others = map(norm_state, models)
    merged = first.merge(others)
    assert merged.counters["1.num_batches_tracked"].dtype == torch.int64
    assert merged.counters["1.num_batches_tracked"] == 2


def test_means_that_are_far_apart_add_to_the_variance():
    models = [network() for _ in range(2)]
    models[1][1].running_mean.fill_(10.0)
    models[1][1].weight.data.fill_(3.0)
    first, second = map(norm_state, models)
    merged = first.merge([second])
    torch.testing.assert_close(merged.statistics["1.running_mean"], torch.full((4,), 5.0).double())
    torch.testing.assert_close(merged.statistics["1.running_var"], torch.full((4,), 26.0).double())
    torch.testing.assert_close(merged.parameters["1.weight"], torch.full((4,), 2.0).double())
    torch.testing.assert_close(first.merge([second], [1, 0]).statistics["1.running_var"], torch.ones(4).double())


def test_states_that_do_not_merge():
    one = norm_state(network())
    with pytest.raises(SpecError, match=r"not the norms of the same model: parameters differ in '1\.bias'"):
        one.merge([norm_state(nn.Sequential(nn.Identity(), nn.BatchNorm2d(4, affine=False)))])
    with pytest.raises(SpecError, match="not the norms of the same model"):
        one.load(nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.GroupNorm(2, 8)))
    for weights in ([1], [1, -1], [0, 0], [1, float("nan")]):
        with pytest.raises(SpecError, match="should be 2 numbers, 0 or more and not all 0"):
            one.merge([one], weights)
    spoilt = network()
    spoilt[1].running_var.fill_(float("nan"))
    with pytest.raises(SpecError, match="the statistics of 1 are not finite"):
        one.merge([norm_state(spoilt)])
    with pytest.raises(SpecError, match="the model has no normalization layer"):
        norm_state(nn.ReLU())


def test_a_selection_that_only_some_have_made_does_not_merge():
    layers = [norm("sparse_switch") for _ in range(2)]
    layers[1].mean_fixed.fill_(1)
    first, second = map(norm_state, layers)
    with pytest.raises(SpecError, match="mean_fixed differs, and is no statistic"):
        first.merge([second])


def test_whitening_matrices_are_averaged_like_weights():
    layers = [norm("whitening") for _ in range(2)]
    layers[1].whitening.mul_(3)
    first, second = map(norm_state, layers)
    torch.testing.assert_close(first.merge([second]).statistics["whitening"], 2 * torch.eye(4).double())


def test_the_initial_value_is_taken_out_of_each_before_they_merge():
    layers = [BatchNorm(4, debias=True, dtype=torch.float64) for _ in range(2)]
    (x,) = data(8)
    layers[0](x)
    for _ in range(9):
        layers[1](x)
    first, second = map(norm_state, layers)
    first.merge([second]).load(layers[0])
    torch.testing.assert_close(layers[0].running("running_mean"), x.mean((0, 2, 3)), rtol=0, atol=ATOL)
