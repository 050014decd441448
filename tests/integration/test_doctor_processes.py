"""`doctor` in two processes: what differs between them is found, all say the same, and nobody waits in vain."""

from __future__ import annotations

import json
import os
import socket
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from click.testing import CliRunner
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

import normlab
from normlab.cli import main
from normlab.doctor import RULES, doctor

SOURCE = """
import os
from torch import nn

def net():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    return model.train(os.environ["RANK"] == "0")
"""


def network(norm=nn.BatchNorm2d) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), norm(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))


def images(rank: int, n: int = 8, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rank)
    return torch.randn(n, 3, 8, 8, generator=generator) + shift * rank


def loader(examples: int) -> DataLoader:
    return DataLoader(TensorDataset(torch.randn(examples, 3, 8, 8)), batch_size=8)


def sync(channels: int) -> nn.Module:
    return normlab.create("batch(sync=True)", num_features=channels)


def trained(rank: int) -> nn.Module:
    model = network().train()
    with torch.no_grad():
        for _ in range(40):
            model(images(rank, shift=10.0))
    return model


def pooled(rank: int) -> nn.Module:
    model = trained(rank)
    normlab.sync_stats(model)
    return model


def poisoned(rank: int) -> nn.Module:
    model = network()
    if rank == 1:
        model[1].running_var.fill_(float("nan"))
    return model


FOUND = {
    "a norm is in eval mode in one": ("NL007", lambda rank: doctor(_eval(rank), select="NL007")),
    "a norm is of another type in one": (
        "NL007",
        lambda rank: doctor(network((nn.BatchNorm2d, nn.SyncBatchNorm)[rank]), select="NL007"),
    ),
    "one has a batch more": (
        "NL107",
        lambda rank: doctor(network(), images(rank), loader=loader(16 + 8 * rank), select="NL107"),
    ),
    "one has a smaller batch": ("NL107", lambda rank: doctor(network(), images(rank, 8 - rank), select="NL107")),
    "statistics differ": ("NL013", lambda rank: doctor(trained(rank), select="NL013")),
    "data differ": ("NL113", lambda rank: doctor(network(), images(rank, shift=10.0), select="NL113")),
    "SyncBatchNorm on the CPU": ("NL207", lambda rank: doctor(network(nn.SyncBatchNorm), images(rank))),
}
CLEAN = {
    "norms of another library were converted": lambda rank: doctor(
        _converted(network(nn.SyncBatchNorm)), images(rank), select=["NL207", "NL007"]
    ),
    "the same statistics are poisoned in both": lambda rank: doctor(poisoned(1), select="NL013"),
    "weights differ as well": lambda rank: doctor(_scaled(rank), images(rank, shift=10.0), select="NL113"),
    "all alike": lambda rank: doctor(network(), images(rank), loader=loader(16)),
    "in DDP": lambda rank: doctor(DistributedDataParallel(network()), images(rank)),
    "synchronized by normlab, unlike data": lambda rank: doctor(network(sync), images(rank, shift=10.0)),
    "statistics were pooled": lambda rank: doctor(pooled(rank), select="NL013"),
}


def _converted(model: nn.Module) -> nn.Module:
    normlab.convert(model, "batch(sync=True)")
    return model


def _scaled(rank: int) -> nn.Module:
    model = network()
    with torch.no_grad():
        model[0].weight.mul_(1 + rank)
    return model


def _eval(rank: int) -> nn.Module:
    model = network().train()
    model[1].train(rank == 0)
    return model


def broken_rule(rank: int):
    """A rule that raises in one process."""
    rule = RULES["NL013"]
    collect = rule.collect

    def fails(case):
        if rank == 1:
            raise OSError("the disk is gone")
        return collect(case)

    object.__setattr__(rule, "collect", fails)
    try:
        return doctor(network(), images(rank), select=["NL013", "NL007"])
    finally:
        object.__setattr__(rule, "collect", collect)


class Raises(nn.Module):
    """In one process."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank

    def forward(self, x):
        if self.rank == 1:
            raise RuntimeError("only here")
        return x


def broken_batch(rank: int):
    """The model does not run in one process."""
    return doctor(network(sync), images(rank)[:, : 3 - rank])


def shard(model: nn.Module, dtype: torch.dtype | None = None, output: torch.dtype | None = None) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard  # takes seconds

    policy = MixedPrecisionPolicy(dtype, output_dtype=output)
    return fully_shard(model, mesh=init_device_mesh("cpu", (2,)), mp_policy=policy)


def sharded(rank: int):
    return doctor(shard(network(lambda c: nn.GroupNorm(2, c))), images(rank))


def sharded_in_half(rank: int):
    """As it is, sharded one by one, and converted: what is found, and whether a forward pass works."""
    plain, apart, converted = network(), network(), network()
    shard(apart[1], torch.float32, torch.bfloat16)
    normlab.convert(converted, "batch")
    results = []
    for model in plain, apart, converted:
        shard(model, torch.bfloat16)
        found = [finding.text for finding in doctor(model, select="NL023").findings]
        try:
            works = model(images(rank)).isfinite().all().item()
        except RuntimeError:
            works = False
        results.append((found, works))
    return results


def ddp_still_works(rank: int) -> bool:
    model = DistributedDataParallel(network())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    doctor(model, images(rank))
    same = all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model(images(rank)).sum().backward()
    gradients = [torch.empty_like(model.module[0].weight) for _ in range(2)]
    dist.all_gather(gradients, model.module[0].weight.grad)
    return same and torch.equal(*gradients)


def command(rank: int, folder: str, port: int):
    """As torchrun starts it."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    result = CliRunner().invoke(main, ["doctor", f"{folder}/net.py:net", "--batch", "8x3x8x8", "--json"])
    return result.exit_code, result.stdout, result.stderr


def work(rank: int, folder: str, port: int) -> None:
    """What each process does; its results go to a file."""
    torch.set_num_threads(1)
    found: dict[str, object] = {"command": command(rank, folder, port)}
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    found |= {name: run(rank) for name, (_, run) in FOUND.items()}
    found |= {name: run(rank) for name, run in CLEAN.items()}
    found["one poisoned"] = doctor(poisoned(rank), select="NL003")
    found["raises in one"] = doctor(nn.Sequential(network(), Raises(rank)), images(rank))
    for other in (broken_rule, broken_batch, sharded, sharded_in_half, ddp_still_works):
        found[other.__name__] = other(rank)
    dist.barrier()
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """One start for all tests: it takes seconds."""
    folder = tmp_path_factory.mktemp("processes")
    Path(folder / "net.py").write_text(SOURCE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(work, args=(str(folder), port), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.mark.parametrize("name", FOUND)
def test_what_differs_is_found_in_both(results, name):
    rule = FOUND[name][0]
    for result in results:
        assert [found.id for found in result[name].findings] == [rule], result[name]
        assert result[name].exit_code == 1
    one, other = (result[name].findings[0] for result in results)
    assert one == other


@pytest.mark.parametrize("name", CLEAN)
def test_what_is_alike_is_clean(results, name):
    for result in results:
        assert not result[name].findings, result[name]
        assert result[name].exit_code == 0


def test_all_rules_are_checked_where_nothing_is_missing(results):
    left = {rule.id for rule in results[0]["all alike"].unchecked}
    assert left == {"NL001", "NL009", "NL014", "NL030", "NL031", "NL109", "NL209"}
    assert "2 processes" in results[0]["all alike"].subject


def test_a_finding_of_one_process_is_one_of_all(results):
    for result in results:
        [found] = result["one poisoned"].findings
        assert (found.id, found.processes) == ("NL003", (1,))
        assert "(in process 1)" in str(result["one poisoned"])


def test_the_numbers_are_those_of_the_processes(results):
    [found] = results[0]["statistics differ"].findings
    assert found.numbers["distance"] > 1
    assert results[0]["one has a batch more"].findings[0].text == "the processes have 2, 3 batches"
    assert results[0]["one has a smaller batch"].findings[0].text == "the batches of the processes have 8, 7 examples"


def test_a_rule_that_fails_in_one_process_keeps_nobody_waiting(results):
    for result in results:
        found = result["broken_rule"]
        assert found.clean == ("NL007",)
        assert found.unchecked[0].reason == "process 1: OSError: the disk is gone"


def test_a_model_that_fails_in_one_process_keeps_nobody_waiting(results):
    for result in results:
        assert "to have 3 channels" in result["broken_batch"].failure
        assert result["broken_batch"].exit_code in (1, 2)


def test_a_rule_that_one_process_could_not_check_is_not_clean(results):
    for result in results:
        found = result["raises in one"]
        reason = "process 1: the model does not run on the batch in training mode: RuntimeError: only here"
        assert found.failure == "process 1: RuntimeError: only here"
        assert reason in {rule.reason for rule in found.unchecked if rule.id == "NL103"}
        assert not {"NL010", "NL029", "NL103"} & set(found.clean)


def test_a_sharded_model_is_looked_at_and_not_run(results):
    for result in results:
        assert result["sharded"].exit_code == 0
        assert any("cannot be run without a trace" in rule.reason for rule in result["sharded"].unchecked)


def test_batch_norms_that_fsdp_casts_are_told_before_they_raise(results):
    text = "FSDP casts 1 layer of type BatchNorm2d to bfloat16, but not their running statistics"
    for result in results:
        assert result["sharded_in_half"] == [([text], False), ([], True), ([], True)]


def test_other_weights_explain_other_activations(results):
    [unchecked] = results[0]["weights differ as well"].unchecked
    assert unchecked.reason.startswith("the processes have different weights")


def test_ddp_goes_on_afterwards(results):
    assert results[0]["ddp_still_works"]
    assert results[1]["ddp_still_works"]


def test_the_command_prints_once_and_all_leave_with_its_exit_code(results):
    (code, out, _), (other, nothing, _) = (result["command"] for result in results)
    assert code == other == 1
    assert nothing == ""
    assert [found["id"] for found in json.loads(out)["findings"]] == ["NL007"]
