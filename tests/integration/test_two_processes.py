"""Two processes with parts of a batch do what one does with the whole: outputs, gradients, statistics, training."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from normlab.errors import SpecError
from normlab.layers import NORMS
from tests.conformance.registry import EXAMPLES, copied
from tests.conftest import TOLERANCE

PARTS = (slice(0, 5), slice(5, 8))  # unequal
EQUAL = (slice(0, 4), slice(4, 8))  # DDP weighs processes alike
SYNCED = [e for e in EXAMPLES if "sync" in NORMS.hints(e.name) and e.name != "ghost"]
COLLECTIVES = {"attentive": 3, "equilibrium": 4, "lp": 2, "whitening": 2}
"""How many there are at most, in a forward pass and in a backward one, where one sum is needed to know the next."""


def problem(example):
    """A layer, a batch of eight and the gradient of its output; the same in every process."""
    torch.manual_seed(EXAMPLES.index(example))
    layer = example.layer(torch.float64)
    inputs = (torch.randn(example.shape(rank, batch=8), dtype=torch.float64) + 1 for rank in (4, 3, 5))
    x = next(x for x in inputs if example.takes(layer, x))
    return layer, x, torch.randn_like(x)


def solve(layer, x, up):
    """Everything that two processes and one should agree on."""
    x = x.clone().requires_grad_()
    with counted() as forward:
        y = layer(x)
    with counted() as backward:
        y.backward(up)
    with counted() as evaluation:
        evaluated = layer.eval()(x) if getattr(layer, "track_running_stats", False) else y
    return {
        "y": y.detach(),
        "x": x.grad,
        "parameters": {name: p.grad for name, p in layer.named_parameters() if p.grad is not None},
        "state": copied(layer),
        "evaluated": evaluated.detach(),
        "collectives": (sum(forward.values()), sum(backward.values()), sum(evaluation.values())),
    }


@contextmanager
def counted():
    """Calls of torch.distributed's collectives inside the block."""
    calls, own = Counter(), {name: getattr(dist, name) for name in ("all_gather", "all_reduce", "all_to_all")}

    def counting(name):
        def call(*args, **kwargs):
            calls[name] += 1
            return own[name](*args, **kwargs)

        return call

    for name in own:
        setattr(dist, name, counting(name))
    try:
        yield calls
    finally:
        for name, function in own.items():
            setattr(dist, name, function)


def network(*, sync: bool):
    torch.manual_seed(3)
    norms = (NORMS["batch"](4, sync=sync), NORMS["switch"](4, sync=sync))
    return nn.Sequential(nn.Conv2d(2, 4, 3), norms[0], nn.ReLU(), nn.Conv2d(4, 4, 3), norms[1]).double()


def train(net, part: slice):
    """Three steps, each of two forwards and one backward."""
    generator = torch.Generator().manual_seed(4)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        one, two = (torch.randn(8, 2, 6, 6, dtype=torch.float64, generator=generator)[part] for _ in range(2))
        optimizer.zero_grad()
        (net(one).square().mean() + net(two).sin().mean()).backward()
        optimizer.step()
    return copied(net.module if isinstance(net, DistributedDataParallel) else net)


def work(rank: int, folder: str) -> None:
    """What each process does; its results go to a file."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    found = {}
    for example in SYNCED:
        layer, x, up = problem(example)
        layer = with_sync(layer)
        found[example.spec] = solve(layer, x[PARTS[rank]], up[PARTS[rank]])
    for broadcast in (True, False):
        net = DistributedDataParallel(network(sync=True), broadcast_buffers=broadcast)
        found["ddp", broadcast] = train(net, EQUAL[rank])
    alone = [dist.new_group([0]), dist.new_group([1])][rank]
    layer = NORMS["batch"](3, sync=True).double()
    layer.process_group = alone
    found["alone"] = solve(layer, *halves(3)[rank])
    found["one value"] = NORMS["batch"](2, sync=True)(torch.tensor([[1.0, 2.0]]) * (rank + 1))
    NORMS["switch"](4)(torch.randn(8, 4, 64, 64))  # on numba
    found["threads"] = torch.get_num_threads()
    dist.barrier()
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def with_sync(layer):
    for module in layer.modules():
        if hasattr(module, "sync"):
            module.sync = True
    return layer


def halves(channels: int):
    torch.manual_seed(5)
    x, up = torch.randn(2, 8, channels, 3, dtype=torch.float64).unbind()
    return [(x[part], up[part]) for part in PARTS]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """One start for all tests: it takes seconds."""
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(work, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


def assert_close(actual, expected, what: str) -> None:
    size = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    torch.testing.assert_close(
        actual, expected, rtol=0, atol=TOLERANCE[torch.float64] * size, msg=lambda text: f"{what}: {text}"
    )


@pytest.mark.parametrize("example", SYNCED, ids=str)
def test_two_processes_are_one_with_the_whole_batch(results, example):
    one, parts = solve(*problem(example)), [result[example.spec] for result in results]
    for what in ("y", "x", "evaluated"):
        assert_close(torch.cat([part[what] for part in parts]), one[what], what)
    for name, gradient in one["parameters"].items():
        assert_close(sum(part["parameters"][name] for part in parts), gradient, name)
    for name, value in one["state"].items():
        for part in parts:
            assert_close(part["state"][name], value, name)


@pytest.mark.parametrize("example", SYNCED, ids=str)
def test_collectives_are_few_and_none_in_eval_mode(results, example):
    for result in results:
        forward, backward, evaluation = result[example.spec]["collectives"]
        assert forward <= COLLECTIVES.get(example.name, 1)
        assert backward <= forward
        assert evaluation == 0
        if example.is_default:
            assert forward > 0, "nothing was synchronised"


@pytest.mark.parametrize("broadcast", [True, False], ids=["broadcast", "no-broadcast"])
def test_training_under_ddp_ends_with_the_weights_of_one_process(results, broadcast):
    expected = train(network(sync=False), slice(None))
    for result in results:
        found = result["ddp", broadcast]
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert_close(found[name], value, name)


def test_a_process_group_of_one_is_alone(results):
    for rank, result in enumerate(results):
        expected = solve(NORMS["batch"](3).double(), *halves(3)[rank])
        assert_close(result["alone"]["y"], expected["y"], "y")
        assert result["alone"]["collectives"] == (0, 0, 0)


def test_one_value_in_each_process_is_a_batch_of_two(results):
    y = torch.cat([result["one value"] for result in results])
    torch.testing.assert_close(y, NORMS["batch"](2)(torch.tensor([[1.0, 2.0], [2.0, 4.0]])))


def test_numba_leaves_torchs_number_of_threads_alone(results):
    assert [result["threads"] for result in results] == [1, 1]


def test_without_a_process_group_the_error_says_what_to_call():
    layer = NORMS["batch"](3, sync=True)
    with pytest.raises(SpecError, match=r"call torch\.distributed\.init_process_group"):
        layer(torch.randn(4, 3))
    assert layer.num_batches_tracked == 0
    layer.eval()(torch.randn(4, 3))
