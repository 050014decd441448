"""What a step of SAM costs, in plain steps, and what its optimizer part costs beside that of davda54's SAM.

    python benchmarks/bench_sam.py                           resnet18 of timm; a table, nothing is stored
    python benchmarks/bench_sam.py --model resnet8           the built-in network, which needs no timm
    python benchmarks/bench_sam.py --append                  also rows in results_sam.csv

Everything is measured in turns in one run, and given as the median of the ratio within a round, so that a machine that
slows down slows all. The optimizer part is a step without forward and backward, on gradients that are there already:
perturb, restore, and the step of SGD with momentum. Two forward and backward passes are two plain steps less one
update, so a step of SAM can cost a little under 2 plain steps.
"""

from __future__ import annotations

import copy
import csv
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.bench_layers import timed
from normlab.optim import SAM
from normlab.study.environment import environment
from normlab.study.executors.local import KEEP_MEMORY
from normlab.study.models import create_model, import_timm

HERE = Path(__file__).parent
LIMIT = 2.05
OURS: dict[str, dict[str, Any]] = {
    "SAM": {},
    "SAM-ON": {"scope": "norm"},
    "ASAM": {"adaptive": "elementwise"},
    "ASAM-ON": {"scope": "norm", "adaptive": "elementwise"},
}
PLAIN, DAVDA = "SGD", "davda54-style SAM"


class PlainSAM:
    """Full SAM as davda54/sam does it: a loop over the parameters, ε kept, and subtracted to get back.

    Its remedy for the running statistics, momentum 0 in the second pass, is left out: it costs next to nothing.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, rho: float = 0.05) -> None:
        self.optimizer, self.rho = optimizer, rho
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.epsilon: dict[Tensor, Tensor] = {}

    @torch.no_grad()
    def first_step(self) -> None:
        norms = [p.grad.norm(p=2) for p in self.parameters if p.grad is not None]
        scale = self.rho / (torch.norm(torch.stack(norms), p=2) + 1e-12)
        for p in self.parameters:
            if p.grad is not None:
                self.epsilon[p] = p.grad * scale.to(p)
                p.add_(self.epsilon[p])

    @torch.no_grad()
    def second_step(self) -> None:
        for p in self.parameters:
            if p.grad is not None:
                p.sub_(self.epsilon[p])
        self.optimizer.step()


@dataclass(frozen=True)
class Arm:
    """A model of its own and how to step it: `optimize` on gradients that are there, `step` with its passes."""

    name: str
    model: nn.Module
    optimize: Callable[[], object]
    step: Callable[[], object]
    copied: Callable[[], int]


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)


def one_pass(model: nn.Module, x: Tensor, t: Tensor) -> None:
    model.zero_grad()
    nn.functional.cross_entropy(model(x), t).backward()


def plain(model: nn.Module, x: Tensor, t: Tensor) -> Arm:
    optimizer = sgd(model)

    def step() -> None:
        one_pass(model, x, t)
        optimizer.step()

    return Arm(PLAIN, model, optimizer.step, step, lambda: 0)


def two_passes(name: str, model: nn.Module, sam: PlainSAM | SAM, x: Tensor, t: Tensor) -> Arm:
    def first() -> None:
        if isinstance(sam, SAM):
            sam.first_step(zero_grad=False)  # the same work for both
        else:
            sam.first_step()

    def optimize() -> None:
        first()
        sam.second_step()

    def step() -> None:
        one_pass(model, x, t)
        first()
        one_pass(model, x, t)
        sam.second_step()

    def copied() -> int:
        one_pass(model, x, t)
        first()
        kept = [c for _, c in sam._copies] if isinstance(sam, SAM) else list(sam.epsilon.values())
        sam.second_step()
        return sum(c.numel() * c.element_size() for c in kept)

    return Arm(name, model, optimize, step, copied)


def arms(model: nn.Module, x: Tensor, t: Tensor) -> list[Arm]:
    """Each with a copy of the model, all of which start alike."""
    found = [plain(copy.deepcopy(model), x, t)]
    twin = copy.deepcopy(model)
    found.append(two_passes(DAVDA, twin, PlainSAM(sgd(twin)), x, t))
    for name, options in OURS.items():
        twin = copy.deepcopy(model)
        found.append(two_passes(name, twin, SAM(sgd(twin), twin, **options), x, t))
    return found


def verified(model: nn.Module, x: Tensor, t: Tensor) -> None:
    """A step of ours is davda54's, or there will be no time."""
    theirs, ours = copy.deepcopy(model).eval(), copy.deepcopy(model).eval()  # no running statistics
    two_passes("", theirs, PlainSAM(sgd(theirs)), x, t).step()
    two_passes("", ours, SAM(sgd(ours), ours), x, t).step()
    worst = max(
        float((p - q).detach().abs().max()) for p, q in zip(theirs.parameters(), ours.parameters(), strict=True)
    )
    assert worst < 1e-6, f"a step of ours is off by {worst:.1e}: no time for what is wrong"


def measure(model: nn.Module, x: Tensor, t: Tensor, rounds: int) -> list[dict[str, Any]]:
    verified(model, x, t)
    entries = arms(model, x, t)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    copied = {arm.name: arm.copied() for arm in entries}
    jobs: dict[Any, Callable[[], object]] = {(arm.name, "step"): arm.step for arm in entries}
    seconds = timed(jobs, rounds)
    for arm in entries:  # in passes of their own: after a backward pass the caches are cold
        one_pass(arm.model, x, t)
    seconds |= timed({(arm.name, "optimizer"): arm.optimize for arm in entries}, 2 * rounds)
    rows: list[dict[str, Any]] = []
    for (name, part), taken in seconds.items():
        unit = PLAIN if part == "step" else DAVDA
        low, middle, high = np.quantile(taken / seconds[unit, part], (0.25, 0.5, 0.75))
        rows.append({
            "arm": name, "part": part, "unit": unit, "ratio": middle, "low": low, "high": high,
            "ms": 1000 * float(np.median(taken)), "rounds": len(taken), "copied_bytes": copied[name],
            "model_bytes": size,
        })  # fmt: skip
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """A Markdown table."""
    print(f"| | step, in plain steps | optimizer part, in {DAVDA}'s | ms | kept, of the model |")
    print("|---|---:|---:|---:|---:|")
    for row in rows:
        if row["part"] == "step":
            part = next(r for r in rows if r["arm"] == row["arm"] and r["part"] == "optimizer")
            ratios = (f"{r['ratio']:.2f} ({r['low']:.2f} to {r['high']:.2f})" for r in (row, part))
            kept = f"{row['copied_bytes'] / row['model_bytes']:.2%}"
            print(f"| {row['arm']} | {' | '.join(ratios)} | {part['ms']:.1f} | {kept} |")


def append(rows: list[dict[str, Any]], **common: Any) -> None:
    facts = environment("cpu", torch.get_num_threads())
    about = {key: facts.get(key, "") for key in ("commit", "processor", "threads", "torch")}
    path = HERE / "results_sam.csv"
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*common, *rows[0], *about])
        if new:
            writer.writeheader()
        for row in rows:
            shown = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()}
            writer.writerow({**common, **shown, **about})


@click.command()
@click.option("--model", "name", default="timm:resnet18", show_default=True, help="timm:NAME, or a built-in network.")
@click.option("--batch", default=64, show_default=True)
@click.option("--size", default=64, show_default=True, help="Height and width of the images.")
@click.option("--rounds", default=15, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--append", "store", is_flag=True, help="Add rows to results_sam.csv.")
def main(name: str, batch: int, size: int, rounds: int, threads: int, store: bool) -> None:
    """Time steps of SAM in plain steps, and its optimizer part in those of davda54's SAM."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    kind, _, rest = name.partition(":")
    if kind == "timm":
        model = import_timm().create_model(rest, num_classes=10)
    else:
        model = create_model(name, in_channels=3, num_classes=10)
    rows = measure(model, torch.randn(batch, 3, size, size), torch.arange(batch) % 10, rounds)
    print(f"{name}, batch {batch}, {size}x{size}, {threads} threads, {rounds} rounds")
    show(rows)
    if store:
        append(rows, model=name, batch=batch, size=size)
    slow = [row["arm"] for row in rows if row["part"] == "step" and row["ratio"] > LIMIT and row["arm"] in OURS]
    if slow:
        raise click.ClickException(f"more than {LIMIT} plain steps: {', '.join(slow)}")


if __name__ == "__main__":
    if any(os.environ.get(key) != value for key, value in KEEP_MEMORY.items()):
        # glibc reads these when a process starts
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **KEEP_MEMORY})
    main()
