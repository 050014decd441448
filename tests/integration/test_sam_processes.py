"""SAM under DistributedDataParallel: two processes do what one does, whichever way the first pass is reduced."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from normlab.layers import NORMS
from normlab.optim import SAM
from tests.conftest import TOLERANCE

PARTS = (slice(0, 4), slice(4, 8))
STEPS = 3
OPTIONS = {
    "sam": {"rho": 0.3},
    "asam-on": {"rho": 2.0, "scope": "norm", "adaptive": "elementwise", "normalize_bias": True},
}


def network(*, sync: bool) -> nn.Module:
    torch.manual_seed(3)
    norms = NORMS["batch"](4, sync=sync), NORMS["group"](4, num_groups=2)
    layers = nn.Conv2d(2, 4, 3), norms[0], nn.ReLU(), nn.Conv2d(4, 4, 3), norms[1], nn.Flatten(), nn.Linear(16, 3)
    return nn.Sequential(*layers).double()


def without_batch_statistics() -> nn.Module:
    net = network(sync=False)
    net[1] = NORMS["group"](4, num_groups=1).double()
    return net


def batches():
    generator = torch.Generator().manual_seed(4)
    return [
        (torch.randn(8, 2, 6, 6, dtype=torch.float64, generator=generator), torch.arange(8) % 3) for _ in range(STEPS)
    ]


def loss_of(net, x, t):
    return nn.functional.cross_entropy(net(x), t)


def build(net, options) -> SAM:
    return SAM(torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01), net, **options)


def state(net) -> dict[str, torch.Tensor]:
    inner = net.module if isinstance(net, DistributedDataParallel) else net
    return {name: value.clone() for name, value in inner.state_dict().items()}


def reduced_in_both_passes(net, options, part):
    sam = build(net, options)
    for x, t in batches():

        def closure(x=x[part], t=t[part]):
            sam.zero_grad()
            loss_of(net, x, t).backward()

        sam.step(closure)
    return state(net)


def reduced_in_the_second_pass(net, options, part):
    sam = build(net, options)
    for x, t in batches():
        with net.no_sync():
            loss_of(net, x[part], t[part]).backward()
        sam.first_step()
        loss_of(net, x[part], t[part]).backward()
        sam.second_step(zero_grad=True)
    return state(net)


def reduced_in_the_second_pass_of_a_closure(net, options, part):
    sam = build(net, options)
    for x, t in batches():

        def closure(x=x[part], t=t[part]):
            sam.zero_grad()
            with nullcontext() if sam.perturbed else net.no_sync():
                loss_of(net, x, t).backward()

        sam.step(closure)
    return state(net)


def accumulated(net, options, part):
    """Two micro-batches in each pass, reduced with the second one."""
    sam = build(net, options)
    for x, t in batches():

        def closure(x=x[part], t=t[part]):
            sam.zero_grad()
            with net.no_sync():
                (loss_of(net, x[:2], t[:2]) / 2).backward()
            (loss_of(net, x[2:], t[2:]) / 2).backward()

        sam.step(closure)
    return state(net)


def perturbed_by_parts(net, options):
    """In one process: each half of a batch has its own perturbation, and the step is along the mean gradient."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for x, t in batches():
        gradients = []
        for part in PARTS:
            twin = copy.deepcopy(net)
            sam = build(twin, options)
            loss_of(twin, x[part], t[part]).backward()
            sam.first_step()
            loss_of(twin, x[part], t[part]).backward()
            gradients.append([p.grad for p in twin.parameters()])
        for p, a, b in zip(net.parameters(), *gradients, strict=True):
            p.grad = (a + b) / 2
        optimizer.step()
    return state(net)


def work(rank: int, folder: str) -> None:
    """What each process does; its results go to a file."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    found, part = {}, PARTS[rank]
    for name, options in OPTIONS.items():
        for view in (False, True):
            net = DistributedDataParallel(network(sync=True), gradient_as_bucket_view=view)
            found[name, "both", view] = reduced_in_both_passes(net, options, part)
        for train in (reduced_in_the_second_pass, reduced_in_the_second_pass_of_a_closure, accumulated):
            found[name, train.__name__] = train(DistributedDataParallel(without_batch_statistics()), options, part)
    mesh = init_device_mesh("cpu", (2,))
    for name, options in OPTIONS.items():
        net = without_batch_statistics()
        for module in (net[0], net[3], net):
            fully_shard(module, mesh=mesh)
        sharded = reduced_in_both_passes(net, options, part)
        found[name, "sharded"] = {key: value.full_tensor() for key, value in sharded.items()}
    dist.barrier()
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """One start for all tests: it takes seconds."""
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(work, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


def assert_all(results, key, expected) -> None:
    for result in results:
        torch.testing.assert_close(result[key], expected, rtol=0, atol=TOLERANCE[torch.float64])
    parameters = (result[key] for result in results)
    for (name, one), (_, two) in zip(*(state.items() for state in parameters), strict=True):
        assert torch.equal(one, two), name


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("view", [False, True], ids=["own-gradients", "bucket-views"])
def test_reduced_in_both_passes_two_processes_are_one_with_the_whole_batch(results, options, view):
    expected = reduced_in_both_passes(network(sync=False), OPTIONS[options], slice(None))
    assert expected["1.num_batches_tracked"] == STEPS
    assert_all(results, (options, "both", view), expected)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("train", [reduced_in_the_second_pass, reduced_in_the_second_pass_of_a_closure])
def test_under_no_sync_each_process_perturbs_by_its_own_part(results, options, train):
    expected = perturbed_by_parts(without_batch_statistics(), OPTIONS[options])
    assert_all(results, (options, train.__name__), expected)


@pytest.mark.parametrize("options", OPTIONS)
def test_accumulated_micro_batches_are_the_whole_batch(results, options):
    expected = reduced_in_both_passes(without_batch_statistics(), OPTIONS[options], slice(None))
    assert_all(results, (options, "accumulated"), expected)


@pytest.mark.parametrize("options", OPTIONS)
def test_fully_sharded_parameters_are_perturbed_as_whole_ones(results, options):
    expected = reduced_in_both_passes(without_batch_statistics(), OPTIONS[options], slice(None))
    assert_all(results, (options, "sharded"), expected)


def test_the_two_ways_differ(results):
    one, other = (results[0]["sam", train] for train in ("accumulated", "reduced_in_the_second_pass"))
    assert (one["0.weight"] - other["0.weight"]).abs().max() > 1e-4
