"""Two processes with parts of the data, unequal ones, end with the statistics of one that has all of it."""

from __future__ import annotations

import copy
import functools
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from normlab.errors import SpecError
from normlab.layers import BatchNorm
from normlab.surgery import recalibrate, sync_stats
from tests.conftest import TOLERANCE
from tests.unit.surgery.models import SPECS, assert_state, data, norm, state

PARTS = (slice(0, 1), slice(1, 4))  # one batch here, three there
ATOL = TOLERANCE[torch.float64] * 100


def layers() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    found: dict[str, nn.Module] = {spec: nn.Sequential(norm(spec)) for spec in SPECS}
    found["torch"] = nn.Sequential(nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3)).double()
    found["SyncBatchNorm"] = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(found["torch"]))
    found["sync"] = nn.Sequential(BatchNorm(4, sync=True, dtype=torch.float64))
    return found


def batches():
    torch.manual_seed(1)
    return data(4, 2, 6, 2)


def work(rank: int, folder: str) -> None:
    """What each process does; its results go to a file."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    found: dict[str, object] = {}
    for name, model in layers().items():
        found[name] = recalibrate(model, batches()[PARTS[rank]]), state(model)
    found |= wrapped(rank) | failures(rank) | {f"sync {name}": value for name, value in synced(rank).items()}
    dist.barrier()
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def wrapped(rank: int) -> dict[str, object]:
    model = DistributedDataParallel(layers()["torch"])
    recalibrate(model, batches()[PARTS[rank]])
    alone = layers()["torch"]
    recalibrate(alone, batches()[PARTS[rank]], sync=False)
    nothing = layers()["torch"]
    recalibrate(nothing, batches() if rank == 0 else [])
    return {"ddp": state(model.module), "alone": state(alone), "nothing": state(nothing)}


def failures(rank: int) -> dict[str, object]:
    """Who fails says so, and the other does not wait."""
    model = layers()["torch"]
    before = state(model)

    def forward(model, batch):
        if rank == 1:
            raise OSError("the disk is gone")
        return model(batch)

    told = []
    for given in (batches(), []):
        try:
            recalibrate(model, given, forward=forward)
        except Exception as error:
            told.append(f"{type(error).__name__}: {error}")
    assert_state(model, before)
    return {"told": told}


@functools.cache
def clients() -> list[dict[str, nn.Module]]:
    """What each process has before `sync_stats`: statistics of its own data, after unequal numbers of batches."""
    every = [layers(), layers()]
    for part, models in zip(PARTS, every, strict=True):
        for name, model in models.items():
            if name not in ("SyncBatchNorm", "sync"):
                for batch in batches()[part]:
                    model.train()(batch)
    return every


def synced(rank: int) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, model in clients()[rank].items():
        found[name] = sync_stats(model), state(model)
    far = nn.BatchNorm1d(2)
    for _ in range(100):
        far(torch.randn(64, 2) + 10 * rank)
    sync_stats(far)
    spoilt = nn.BatchNorm1d(2)
    spoilt.running_var.fill_(1.0 if rank else float("nan"))
    before = state(spoilt)
    try:
        sync_stats(spoilt)
    except SpecError as error:
        found["told"] = str(error)
    assert_state(spoilt, before)
    return {**found, "far": state(far)}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """One start for all tests: it takes seconds."""
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(work, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.mark.parametrize("name", list(layers()))
def test_precise_bn_is_the_same_across_ranks_and_that_of_all_the_data(results, name):
    model = layers()[name]
    counted = recalibrate(model, batches())
    for result in results:
        assert result[name][0] == counted
        assert_state(model, result[name][1], atol=ATOL)
    assert_state_equal(*(result[name][1] for result in results))


def assert_state_equal(one, other):
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_model_in_ddp_and_a_process_without_data(results):
    model = layers()["torch"]
    recalibrate(model, batches())
    for result in results:
        assert_state(model, result["ddp"], atol=ATOL)
        assert_state(model, result["nothing"], atol=ATOL)


def test_a_process_may_do_it_alone(results):
    for rank, result in enumerate(results):
        model = layers()["torch"]
        recalibrate(model, batches()[PARTS[rank]])
        assert_state(model, result["alone"], atol=ATOL)


def test_a_process_that_fails_does_not_leave_the_others_waiting(results):
    assert results[1]["told"] == ["OSError: the disk is gone", results[0]["told"][1]]
    assert results[0]["told"] == [
        "SpecError: recalibrate failed in process 1 of the group; its own error says why",
        "SpecError: the loader gave no batches; an iterator that was used up gives none either",
    ]


def test_ddp_keeps_the_statistics_of_one_rank_only(results):
    """Ranks whose means are 0 and 10 are a population of mean 5 and variance 1 + 25."""
    for result in results:
        torch.testing.assert_close(result["sync far"]["running_mean"], torch.full((2,), 5.0), rtol=0, atol=0.1)
        torch.testing.assert_close(result["sync far"]["running_var"], torch.full((2,), 26.0), rtol=0, atol=1)
        assert result["sync far"]["num_batches_tracked"] == 100


@pytest.mark.parametrize("name", list(layers()))
def test_synced_statistics_are_those_of_both_by_their_batches(results, name):
    one, other = (models[name].eval() for models in clients())
    changed, expected = results[0][f"sync {name}"]
    if name in ("SyncBatchNorm", "sync"):  # which have seen nothing, and agree
        assert changed == []
        assert_state(one, expected)
        return
    assert "0" in changed or name == "torch"
    assert_state_equal(expected, results[1][f"sync {name}"][1])
    merged = copy.deepcopy(one)
    merged.load_state_dict(expected)
    for site in changed:
        layers_ = [model.get_submodule(site) for model in (one, other, merged)]
        if not (hasattr(layers_[0], "running_mean") and name != "switch(moving_average=False)"):
            continue
        first, second, both = (effective(layer) for layer in layers_)
        counts = [int(layer.num_batches_tracked) for layer in layers_]
        assert counts[2] == max(counts[:2])
        share = counts[0] / (counts[0] + counts[1])
        mean = share * first[0] + (1 - share) * second[0]
        torch.testing.assert_close(both[0], mean, rtol=0, atol=ATOL)
        if first[1] is not None:
            apart = share * (first[0] - mean) ** 2 + (1 - share) * (second[0] - mean) ** 2
            var = share * first[1] + (1 - share) * second[1] + (0 if name.startswith("instance") else apart)
            torch.testing.assert_close(both[1], var, rtol=0, atol=ATOL)


def effective(layer):
    running = getattr(layer, "running", lambda name: getattr(layer, name))
    return running("running_mean"), running("running_var") if hasattr(layer, "running_var") else None


def test_statistics_that_are_nan_in_one_process_are_refused_in_both(results):
    for result in results:
        assert result["sync told"] == (
            "the statistics of the model (BatchNorm1d) are not finite in process 0: recalibrate it"
        )


def test_without_a_process_group_the_error_says_what_to_call():
    with pytest.raises(SpecError, match=r"call torch\.distributed\.init_process_group"):
        sync_stats(nn.BatchNorm2d(3))
