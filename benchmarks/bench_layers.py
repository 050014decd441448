"""How long each normalizer takes, in copies: the time of `y.copy_(x)` on the same tensor, measured in the same rounds.

    python benchmarks/bench_layers.py                        all shapes and layouts; a table, nothing is stored
    python benchmarks/bench_layers.py --only switch --shape large
    python benchmarks/bench_layers.py --append               also rows in results.csv, and the tables of README.md

The floor of a normalizer that needs the statistics of a batch is 8 passes over a tensor, 4 copies: forward it reads x,
then reads x and writes y; backward it reads g and x, then reads both and writes dx.
"""

from __future__ import annotations

import copy
import csv
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import competitors, tables
from normlab import use_backend
from normlab.layers import NORMS
from normlab.study.environment import environment
from normlab.study.executors.local import KEEP_MEMORY

HERE = Path(__file__).parent
SHAPES = {"large": (128, 64, 32, 32), "small": (128, 256, 8, 8), "tiny": (32, 16, 8, 8)}
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
OPTIONS = {"group": "group(num_groups=8)", "instance": "instance(affine=True)", "evo_s0": "evo_s0(num_groups=8)"}
OPTIONS |= {"ilm": "ilm(num_groups=8, key_group_size=8)", "attentive": "attentive(num_affine=10)"}
DRAWS = {"noisy"}  # noise in training, other noise in float64: compared in eval mode
COLUMNS = ("shape", "layout", "layer", "pass", "copies", "low", "high", "ms", "rounds", "saved_bytes", "backend")


@dataclass(frozen=True)
class Entry:
    """A layer to time, and what it leaves in memory for the backward pass, in bytes besides its input's own."""

    name: str
    layer: nn.Module
    backend: str = ""
    saved: int = 0


def specs(shape: tuple[int, ...]) -> Iterator[tuple[str, nn.Module]]:
    """Our layers, torch's and timm's, and the authors' ways of composing them."""
    for name in NORMS:
        yield name, NORMS.create(OPTIONS.get(name, name), num_features=shape[1])
    yield from competitors.layers(shape[1])


def step(layer: nn.Module, x: Tensor, g: Tensor) -> Tensor:
    y = layer(x)
    y.backward(g)
    grad, x.grad = x.grad, None
    assert grad is not None
    return grad


def verified(name: str, layer: nn.Module, x: Tensor, g: Tensor) -> None:
    """The gradient in float32 is that of the eager reference in float64, or there will be no time."""
    if name not in NORMS:
        return
    wide = copy.deepcopy(layer).double()
    if name in DRAWS:
        layer, wide = copy.deepcopy(layer).eval(), wide.eval()
    found = step(layer, x.detach().requires_grad_(), g)
    with use_backend("eager"):
        expected = step(wide, x.detach().double().requires_grad_(), g.double())
    worst = (found.double() - expected).abs().max() / expected.abs().max()
    assert worst < 1e-4, f"{name} is off by {worst:.1e} of its largest gradient: no time for what is wrong"


def saved_bytes(layer: nn.Module, x: Tensor) -> int:
    """Bytes that the graph holds, each piece of memory once, without parameters and x itself."""
    own = {p.untyped_storage().data_ptr() for p in [*layer.parameters(), *layer.buffers(), x]}
    pieces: dict[int, int] = {}

    def note(value: Tensor) -> Tensor:
        memory = value.untyped_storage()
        pieces[memory.data_ptr()] = memory.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        y = layer(x)
    own.add(y.untyped_storage().data_ptr())
    return sum(size for pointer, size in pieces.items() if pointer not in own)


def timed(jobs: dict[Any, Callable[[], object]], rounds: int) -> dict[Any, np.ndarray]:
    """Seconds of each job, [rounds], the jobs taking turns."""
    for job in jobs.values():
        job()
    seconds = {key: np.empty(rounds) for key in jobs}
    for i in range(rounds):
        for key, job in jobs.items():
            job()  # untimed: it wakes the threads that the job before did not use
            start = time.perf_counter()
            job()
            seconds[key][i] = time.perf_counter() - start
    return seconds


def measure(shape_name: str, layout_name: str, only: tuple[str, ...], rounds: int) -> list[dict[str, Any]]:
    """Rows of results for one shape and layout."""
    from normlab import backend

    torch.manual_seed(0)
    shape, layout = SHAPES[shape_name], LAYOUTS[layout_name]
    x, g = (torch.randn(shape).to(memory_format=layout) for _ in range(2))
    target, leaf = torch.empty_like(x), x.clone().requires_grad_()
    entries: list[Entry] = []
    jobs: dict[Any, Callable[[], object]] = {"copy": lambda: target.copy_(x)}
    for name, layer in specs(shape):
        if only and name not in only:
            continue
        verified(name, layer, x, g)
        size = saved_bytes(layer, leaf)
        ran = backend()
        entries.append(Entry(name, layer, ran.name if ran and name in NORMS else "", size))
        jobs[name, "both"] = lambda layer=layer: step(layer, leaf, g)
        jobs[name, "forward"] = lambda layer=layer: forward(layer, x)
    seconds = timed(jobs, rounds)
    rows: list[dict[str, Any]] = []
    for entry in entries:
        for which in ("forward", "both"):
            ratio = seconds[entry.name, which] / seconds["copy"]
            low, middle, high = np.quantile(ratio, (0.25, 0.5, 0.75))
            values = (shape_name, layout_name, entry.name, which, middle, low, high)
            ms = 1000 * float(np.median(seconds[entry.name, which]))
            rows.append(dict(zip(COLUMNS, (*values, ms, rounds, entry.saved, entry.backend), strict=True)))
    return rows


def forward(layer: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return layer(x)


def append(rows: list[dict[str, Any]]) -> None:
    facts = environment("cpu", torch.get_num_threads())
    path = HERE / "results.csv"
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow((*COLUMNS, "commit", "processor", "threads", "torch"))
        for row in rows:
            shown = [f"{v:.4g}" if isinstance(v, float) else v for v in row.values()]
            writer.writerow([*shown, facts.get("commit", ""), facts["processor"], facts["threads"], facts["torch"]])


def show(rows: list[dict[str, Any]]) -> None:
    for row in sorted((r for r in rows if r["pass"] == "both"), key=lambda r: r["copies"]):
        other = next(r for r in rows if r["layer"] == row["layer"] and r["pass"] == "forward")
        print(
            f"  {row['layer']:24} {row['copies']:7.2f} copies ({row['low']:.2f} to {row['high']:.2f}), forward "
            f"{other['copies']:6.2f}, {row['ms']:8.3f} ms, saves {row['saved_bytes']:>10,} B  {row['backend']}",
            flush=True,
        )


@click.command()
@click.option("--shape", "shapes", multiple=True, type=click.Choice(list(SHAPES)), help="Default: all.")
@click.option("--layout", "layouts", multiple=True, type=click.Choice(list(LAYOUTS)), help="Default: both.")
@click.option("--only", multiple=True, help="Layers by name; default: all.")
@click.option("--rounds", default=25, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--append", "store", is_flag=True, help="Add rows to results.csv.")
def main(
    shapes: tuple[str, ...], layouts: tuple[str, ...], only: tuple[str, ...], rounds: int, threads: int, store: bool
) -> None:
    """Time every normalizer, forward and forward with backward, in copies."""
    torch.set_num_threads(threads)
    for shape in shapes or SHAPES:
        for layout in layouts or LAYOUTS:
            rows = measure(shape, layout, only, rounds * (10 if shape == "tiny" else 1))
            print(f"{list(SHAPES[shape])} {layout}")
            show(rows)
            if store:
                append(rows)
    if store:
        tables.update()


if __name__ == "__main__":
    if any(os.environ.get(key) != value for key, value in KEEP_MEMORY.items()):
        # glibc reads these when a process starts
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **KEEP_MEMORY})
    main()
