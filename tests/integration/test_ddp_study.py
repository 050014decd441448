"""A run on two processes is the run of one, up to rounding; and whatever happens to one of them, nothing hangs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import deque
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch import nn

from normlab.errors import SpecError, Unavailable
from normlab.layers import NORMS
from normlab.optim import SAM
from normlab.study import Study
from normlab.study.distributed import World, launched, taken
from normlab.study.executors import executor
from normlab.study.job import TrainSpec
from normlab.study.models import import_timm
from normlab.study.processes import round as rounds
from normlab.study.run import Options
from normlab.study.training import Arithmetic
from tests.conformance.registry import EXAMPLES, copied
from tests.conftest import TOLERANCE
from tests.integration.commands import started
from tests.integration.test_interruptions import assert_gone, checkpoints, children, results, wait_until

SYNCED = [e for e in EXAMPLES if e.is_default and "sync" in NORMS.hints(e.name) and e.name != "ghost"]
SILENT = "noisy(mean_range=0.0, scale_range=1.0, spread=0.0)"  # noise is each process's own, as dropout is
NETS = {e.name: e.name for e in SYNCED} | {"noisy": SILENT, "torch": nn.BatchNorm2d, "ghost": "ghost(ghost_size=2)"}
SAMPLES = {"ghost": (8, 8)}  # whose ghost batches must fit into each part
EXAMPLES_OF = (7, 5)  # of the batches: no part is as large as the other


def network(name: str) -> nn.Module:
    torch.manual_seed(3)
    made = NETS[name]
    norm = NORMS.create(made, num_features=6) if isinstance(made, str) else made(6)
    layers = nn.Conv2d(2, 6, 3), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 3)
    return nn.Sequential(*layers).double()


def train(name: str, world: World) -> dict[str, torch.Tensor]:
    """Two SAM steps, as the trainer makes them: whole batches are drawn, and each process takes its part."""
    model = world.synchronise(network(name))
    net = world.wrap(model)
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), model, rho=0.05)
    generator, total = torch.Generator().manual_seed(4), torch.zeros((), dtype=torch.float64)
    sizes = SAMPLES.get(name, EXAMPLES_OF)
    for size in sizes:
        images = torch.randn(size, 2, 6, 6, dtype=torch.float64, generator=generator)[world.part(size)]
        labels = (torch.arange(size) % 3)[world.part(size)]

        def closure(images=images, labels=labels, size=size):
            optimizer.zero_grad()
            loss = world.weigh(nn.functional.cross_entropy(net(images), labels), size)
            loss.backward()
            return loss.detach()

        total += optimizer.step(closure) * size
    world.settle(model)
    correct = torch.arange(11)[world.part(11)] % 2 == 0
    return {
        **copied(model),
        "mean loss": world.sum(total) / world.size / sum(sizes),
        "gathered": world.gather(correct, 11).double(),
        "gathered, large": world.gather(2**40 + torch.arange(11)[world.part(11)], 11).double(),
        "broadcast": torch.tensor(world.broadcast(float(world.rank))).double(),
    }


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    torch.save({name: train(name, World(rank, 2)) for name in NETS}, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    torch.multiprocessing.spawn(work, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("name", [name for name in NETS if name != "ghost"])
def test_two_processes_train_as_one_does_with_every_batch_type_normalizer(trained, name):
    expected = train(name, World())
    for found in trained:
        assert found[name].keys() == expected.keys()
        for key, value in expected.items():
            size = max(1.0, float(value.abs().max()))
            tolerance = 20 * TOLERANCE[torch.float64] * size  # two steps of SAM after one another
            torch.testing.assert_close(
                found[name][key].double(), value.double(), rtol=0, atol=tolerance, msg=lambda text, key=key: key + text
            )


def test_statistics_of_ghost_batches_are_those_of_all_parts_after_an_epoch(trained):
    first, second = (found["ghost"] for found in trained)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["1.running_mean"], torch.zeros(6))


STUDY = """
baseline = "base"
seeds = 2
[data]
name = "digits(train=110, validation=90)"
[model]
name = "resnet8(width=4)"
[train]
epochs = 3
batch_size = 27  # the last one is of 2: one for each process
lr = 0.02
[arms]
base = "baseline"
[arms.all]
norm = "switch"
recipe = "baseline"
optimizer = "sam(rho=0.05, scope='norm')"
train = { ema = 0.8, label_smoothing = 0.1, clip_grad_norm = 2.0, augment = ["flip", "crop(padding=1)"] }
"""
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "normlab"]
ON_TWO = ("--set", "resources.devices=2")


def start(folder, *arguments, torchrun=False) -> subprocess.Popen[str]:
    command = TORCHRUN if torchrun else [sys.executable, "-m", "normlab"]
    run = [*command, "run", "tiny.toml", "--checkpoint-every", "0.05", *arguments]
    return started(run, folder, OMP_NUM_THREADS="1")


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """The same study on one process, on two, and by torchrun; folder and output of each."""
    how = {"one": (("--workers", "0"), False), "two": (("--workers", "1", *ON_TWO), False), "torchrun": ((), True)}
    started = {}
    for name, (arguments, torchrun) in how.items():  # at the same time: most of it is waiting for imports
        folder = tmp_path_factory.mktemp(name)
        (folder / "tiny.toml").write_text(STUDY)
        started[name] = folder, start(folder, *arguments, torchrun=torchrun)
    done = {}
    for name, (folder, process) in started.items():
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        done[name] = folder, output
    return done


def found_in(folder):
    """What runs found, without the time they took."""
    return {
        key: {k: v for k, v in run.items() if k != "curves"}
        | {"curves": {name: values for name, values in run["curves"].items() if name != "seconds"}}
        for key, run in results(folder).items()
    }


def test_a_study_on_two_processes_finds_what_one_process_finds(studies):
    one, two = (found_in(studies[name][0]) for name in ("one", "two"))
    assert len(one) == 4
    assert one.keys() == two.keys(), "the number of devices is no part of a run's hash"
    for key, run in one.items():
        assert two[key]["correct"] == run["correct"]
        for part in ("metrics", "curves"):
            for name, value in run[part].items():
                assert two[key][part][name] == pytest.approx(value, abs=10 * TOLERANCE[torch.float32], rel=1e-5), name


def test_torchrun_gives_the_same_bits_as_devices_in_the_study(studies):
    assert found_in(studies["torchrun"][0]) == found_in(studies["two"][0])


def test_the_first_process_alone_writes_and_prints(studies):
    for name in ("two", "torchrun"):
        folder, output = studies[name]
        assert output.count("4 of 4 runs finished") == 1
        assert "Warning" not in output
        assert sorted(path.name for path in (folder / "runs" / "tiny" / "runs").glob("*/*")) == ["result.json"] * 4


def test_a_result_says_how_many_processes_made_it(studies):
    for name, processes in (("one", None), ("two", "2"), ("torchrun", "2")):
        for path in (studies[name][0] / "runs").glob("*/runs/*/result.json"):
            assert json.loads(path.read_text())["environment"].get("processes") == processes


def test_killed_under_torchrun_and_interrupted_with_helpers_it_ends_in_the_same_bits(studies, tmp_path):
    (tmp_path / "tiny.toml").write_text(STUDY)
    process = start(tmp_path, torchrun=True)
    wait_until(lambda: bool(checkpoints(tmp_path)), process)
    ranks = children(process.pid)
    os.kill(ranks[1], signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "is gone, so that torchrun ends the others" in output or "Interrupted. " in output, output
    assert_gone(ranks, float("inf"))

    done, process = len(results(tmp_path)), start(tmp_path, "--workers", "1", *ON_TWO)
    wait_until(lambda: len(results(tmp_path)) > done, process)
    (worker,) = (pid for pid in children(process.pid) if children(pid))
    helpers = children(worker)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "The same command again continues from there." in output
    assert "Traceback" not in output
    assert_gone([worker, *helpers], float("inf"))

    output, _ = start(tmp_path, "--workers", "0", *ON_TWO).communicate(timeout=300)
    assert found_in(tmp_path) == found_in(studies["two"][0]), output


def one_raises(arm, streams, context):
    if context.world.rank == 1:
        raise ValueError("only here")
    context.world.sum(torch.ones(1))
    return {"metric": 1.0}


def one_dies(arm, streams, context):
    if context.world.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    context.world.sum(torch.ones(1))
    return {"metric": 1.0}


def both_raise(arm, streams, context):
    raise SpecError("impossible")


def one_goes_on(arm, streams, context):
    if context.world.rank == 1:
        context.world.sum(torch.ones(1))
    return {"metric": 1.0}


def well(arm, streams, context):
    if context.world.rank == 1:
        (context.directory / "mine").write_text("not the run's directory")
    return {"metric": context.world.sum(torch.ones(1)).item()}


CASES = {  # the first one's processes serve the second one too
    "well": (well, None),
    "raises": (one_raises, "ProcessFailed: rank 1 of 2 processes: ValueError: only here"),
    "dies": (one_dies, "ProcessFailed: rank 1 of 2 processes was killed; for memory?"),
    "both": (both_raise, "SpecError: impossible"),
    "goes on": (one_goes_on, "ProcessFailed: rank 1 of 2 processes was not through 1 s after the first one"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_process_that_fails_keeps_nobody_waiting_and_is_named(case, tmp_path, monkeypatch):
    function, message = CASES[case]
    monkeypatch.setattr(rounds, "GRACE", 1.0)
    study = Study({"a": 1, "b": 2}, train=function, seeds=2)
    store = study.store(tmp_path).open(create=True)
    waiting = deque(study.runs[:1])
    events = list(executor()(function, waiting, store, Options(devices=2), workers=0))
    outcome = events[-1].outcome
    if message is None:
        assert outcome.status == "ok"
        result = store.load(study.runs[0].key)
        assert result.metrics == {"metric": 2.0}
        assert not list(tmp_path.rglob("mine"))
        return
    assert outcome.status == "failed"
    assert message in outcome.error
    if case == "raises":
        assert "in one_raises" in store.failure(study.runs[0].key), "the traceback of the process that raised"
    assert not dist.is_initialized()


def test_what_a_study_wants_and_what_torchrun_has_started_must_agree(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert launched() == World(0, 2)
    assert taken(launched(), 1, None, None) == taken(launched(), 2, 0, "local") == (2, 0)
    assert taken(World(), 3, 4, "ray") == (3, 4)
    with pytest.raises(SpecError, match=r"devices = 4, and torchrun has started 2 processes"):
        taken(launched(), 4, None, None)
    with pytest.raises(SpecError, match="leave out 3 workers"):
        taken(launched(), 1, 3, None)
    with pytest.raises(SpecError, match="leave out on 'ray'"):
        taken(launched(), 1, None, "ray")


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((4, 100), "a batch has 4 examples, too few for 8 processes"),  # as have all of them
        ((32, 99), "the last batch of 99 training examples in batches of 32 has 3 examples"),
        ((32, 96, 5), "a split has 5 examples"),
    ],
    ids=["batch", "last", "split"],
)
def test_a_batch_that_is_too_small_to_share_is_refused(sizes, message):
    World(0, 2).check(32, 96, 5)
    with pytest.raises(SpecError, match=message):
        World(0, 8).check(*sizes)


def test_a_compiled_run_of_two_processes_is_refused_since_it_would_hang():
    train = TrainSpec(epochs=1, batch_size=4, lr=0.1, compile=True)
    assert Arithmetic.of(train, "cpu").compiled
    with pytest.raises(SpecError, match="a run of 2 processes cannot be compiled"):
        Arithmetic.of(train, "cpu", 2)


def test_a_batch_norm_that_cannot_be_shared_is_named():
    try:
        layers = import_timm().layers
    except Unavailable as error:
        pytest.skip(str(error))
    model = nn.Sequential(nn.Conv2d(2, 4, 3), layers.EvoNorm2dB0(4))
    with pytest.raises(SpecError, match=r"statistics of 1 \(timm\.layers\.evo_norm\.EvoNorm2dB0\)"):
        World(0, 2).synchronise(model)


def test_parts_of_a_batch_are_all_of_it_in_order():
    for count in (2, 3, 7, 16):
        parts = [list(range(count))[World(rank, 3).part(count)] for rank in range(3)]
        assert [index for part in parts for index in part] == list(range(count))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_torchs_batch_norms_keep_their_parameters():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4))
    before = list(model.parameters())
    after = list(World(0, 2).synchronise(model).parameters())
    assert all(a is b for a, b in zip(before, after, strict=True))
    assert model[1].sync
    assert World().synchronise(model) is model


def test_torch_distributed_that_is_in_use_is_left_alone(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/alone", rank=0, world_size=1)
    try:
        study = Study({"a": 1, "b": 2}, train=well, seeds=2)
        store = study.store(tmp_path / "store").open(create=True)
        events = list(executor()(well, deque(study.runs[:1]), store, Options(devices=2), workers=0))
        assert "initialized already" in events[-1].outcome.error
        assert dist.is_initialized()
    finally:
        dist.destroy_process_group()
