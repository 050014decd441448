"""What data costs: a batch beside a training step, and decoding and opening a dataset.

    python -m benchmarks.bench_data                          batches of random pixels beside steps of ResNet-18
    NORMLAB_DATA_DIR=FOLDER python -m benchmarks.bench_data --dataset cifar10      also decodes it, and opens it again

A batch is all from the stored uint8 images to what the network takes: gather, augment, convert. Batch and step take
turns in one run; given is the median of the ratio within a round. Limit: 5 %.
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
from dataclasses import dataclass

import click
import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.bench_layers import timed
from normlab.seeding import Streams
from normlab.study.data import forget, load
from normlab.study.data.examples import Examples
from normlab.study.distributed import World
from normlab.study.job import DataSpec, ModelSpec
from normlab.study.models import create_model
from normlab.study.training.feed import Feed

LIMIT = 0.05


@dataclass(frozen=True)
class Case:
    """What is trained, and on what."""

    size: int
    batch: int
    augment: tuple[str, ...]
    stem: str
    examples: int


CASES = {
    "CIFAR": Case(32, 128, ("crop(padding=4)", "flip"), "cifar", 10_000),
    "photographs": Case(256, 64, ("crop(size=224)", "flip"), "own", 640),
}


def feed_of(case: Case, device: str) -> Feed:
    generator = torch.Generator().manual_seed(0)
    pool = torch.randint(0, 256, (case.examples, 3, case.size, case.size), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (case.examples,), generator=generator)
    part = Examples(pool.to(device), torch.arange(case.examples, device=device), labels.to(device))
    size, layout = (case.size, case.size), torch.channels_last
    return Feed(part, part, part, 10, 3, size, 1 / 255, case.augment, {}, layout)


def network(case: Case, device: str) -> nn.Module:
    model = create_model(ModelSpec(name="timm:resnet18", stem=case.stem), in_channels=3, num_classes=10)
    return model.to(device).to(memory_format=torch.channels_last)


def measure(case: Case, device: str, rounds: int) -> dict[str, np.ndarray]:
    feed, model = feed_of(case, device), network(case, device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, fused=True)
    epoch = feed.epoch(Streams(0), 0)
    chosen = epoch.order[World().part(case.examples)][: case.batch]
    images, labels = feed.training(epoch, chosen)

    def wait() -> None:
        if device != "cpu":
            torch.cuda.synchronize()

    def batch() -> None:
        feed.training(epoch, chosen)
        wait()

    def step() -> None:
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=device != "cpu"):
            loss: Tensor = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        wait()

    return timed({"batch": batch, "step": step}, rounds)


def open_twice(name: str) -> None:
    """Decode a dataset into an empty cache, open it again, and say what that took."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["NORMLAB_CACHE_DIR"] = cache
        taken = []
        for _ in range(2):
            start = time.perf_counter()
            data = load(DataSpec(name=name))
            taken.append(time.perf_counter() - start)
            forget()
        count = len(data.train) + len(data.validation) + len(data.test)
        megabytes = data.train.pool.nbytes / 1e6 + data.test.pool.nbytes / 1e6
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"{name}: {count:,} images, {megabytes:.0f} MB: decoded in {taken[0]:.1f} s, opened and checked in "
            f"{taken[1]:.2f} s, {peak:.0f} MiB of memory at most"
        )


@click.command()
@click.option("--device", default="cpu", show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--only", type=click.Choice(list(CASES)))
@click.option("--dataset", help="Decode and open this one too.")
def main(device: str, threads: int, rounds: int, only: str | None, dataset: str | None) -> None:
    torch.set_num_threads(threads)
    if dataset is not None:
        open_twice(dataset)
    print("| | batch, ms | step, ms | batch / step |\n|---|---:|---:|---:|")
    for name in [only] if only else CASES:
        case = CASES[name]
        seconds = measure(case, device, rounds)
        low, middle, high = np.quantile(seconds["batch"] / seconds["step"], (0.25, 0.5, 0.75))
        batch, step = (1000 * float(np.median(seconds[part])) for part in ("batch", "step"))
        what = f"{name}: {case.batch} of {case.size}x{case.size}, {', '.join(case.augment)}"
        print(f"| {what} | {batch:.2f} | {step:.0f} | {middle:.2%} ({low:.2%} to {high:.2%}) |")
        assert middle < LIMIT, f"a batch costs {middle:.1%} of a step, more than {LIMIT:.0%}"


if __name__ == "__main__":
    main()
