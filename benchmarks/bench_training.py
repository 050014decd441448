"""Images per second of the built-in trainer, in those of a straightforward loop: ResNet-18 on CIFAR-10.

    python -m benchmarks.bench_training                 on this machine's GPU, or else its cores
    python -m benchmarks.bench_training --at-once 4     also seeds per hour, four at once against one by one
    python -m benchmarks.bench_training --append        also rows in results_training.csv, and the table in README.md

The straightforward loop is that of the paper's released script: torchvision's transforms, a DataLoader, eager float32
in NCHW, layers of torch.nn, the loss read at every step. Each side is a process of its own, as it would be: the loop
with glibc's allocator as it comes, the trainer with that of a study's workers. They take turns, and what is given is
the median of the ratio within a round, so that a machine that slows down slows all. Before anything is timed, a step of
either side from the same weights on the same images has to come to the same.

CIFAR-10 is looked for as in a study (`NORMLAB_DATA_DIR`).
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from benchmarks.training_sides import DATA, NETWORK, Ours, Setting, plain_network, plain_optimizer, plain_step
from normlab.study.environment import environment
from normlab.study.executors.local import OWN_MEMORY

HERE = Path(__file__).parent
START, END = "<!-- training: written by bench_training.py --append -->", "<!-- end of training -->"
TRAINED, VALIDATED, TESTED = 45_000, 5_000, 10_000
CLOCKS = ("wall", "cpu")
FLOOR = {"cpu": ("fp32", 1.3), "cuda": ("bf16", 5.0)}  # images per second, in those of the straightforward loop


class Child:
    """A side in its process, which does one thing at a time when told."""

    def __init__(self, setting: Setting, clock: str = "wall") -> None:
        self.setting, self.clock = setting, CLOCKS.index(clock)
        environ = {key: value for key, value in os.environ.items() if key not in OWN_MEMORY}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.training_sides", json.dumps(dataclasses.asdict(setting))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environ | (OWN_MEMORY if setting.keep else {}),
        )
        self.answer()

    def ask(self, verb: str, count: int) -> None:
        assert self.process.stdin is not None
        print(verb, count, file=self.process.stdin, flush=True)

    def answer(self) -> float:
        """Seconds that it took."""
        assert self.process.stdout is not None
        said = ""
        for line in self.process.stdout:
            if line.startswith("took "):
                return float(line.split()[1 + self.clock])
            said = line.strip() or said
        raise click.ClickException(f"{self.setting.name}: {said}")

    def seconds(self, verb: str, count: int) -> float:
        self.ask(verb, count)
        return self.answer()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def verified(setting: Setting) -> None:
    """A step of the trainer is a step of the straightforward loop, or there will be no time."""
    ours = Ours(dataclasses.replace(setting, side="fp32", compile=False, batch=16))
    network = plain_network(ours.trainer.data.in_channels, ours.trainer.data.num_classes).to(setting.device)
    ours.trainer.model.double(), network.double()  # where rounding hides nothing
    for name, value in ours.trainer.model.state_dict().items():
        network.state_dict()[name].copy_(value)
    data = ours.trainer.data
    epoch = data.epoch(ours.trainer.streams, 0)
    images, labels = data.training(epoch, epoch.order[:16])
    with ours.trainer.arithmetic.applied():
        ours.trainer.step(images.double(), labels, 16)
        plain_step(network, plain_optimizer(network), images.double().contiguous(), labels)
    trained = dict(network.named_parameters())
    worst = max(float((p - trained[n]).detach().abs().max()) for n, p in ours.trainer.model.named_parameters())
    assert worst < 1e-9, f"a step of the trainer is off by {worst:.1e}: no time for what is wrong"


def measured(settings: Sequence[Setting], rounds: int, steps: int, clock: str) -> list[dict[str, Any]]:
    """Every side in turn, `rounds` times; the first setting is the unit."""
    children = [Child(setting, clock) for setting in settings]
    examples = 4 * settings[0].batch
    for child in children:
        child.seconds("train", 2)
        child.seconds("evaluate", examples)
    taken = np.array([
        [(c.seconds("train", steps), c.seconds("evaluate", examples)) for c in children] for _ in range(rounds)
    ])  # fmt: skip
    for child in children:
        child.close()
    per_image = taken / (steps * settings[0].batch, examples)  # [rounds, sides, 2] seconds
    epochs = [epoch_seconds(per_image[:, i], tested=s.side == "plain") for i, s in enumerate(settings)]
    return [
        row(settings[i].name, part, values[:, i] if part != "epoch" else epochs[i], unit)
        for part, values, unit in (
            ("train", per_image[..., 0], per_image[:, 0, 0]),
            ("evaluate", per_image[..., 1], per_image[:, 0, 1]),
            ("epoch", np.empty(0), epochs[0]),
        )
        for i in range(len(settings))
    ]


def epoch_seconds(per_image: np.ndarray, *, tested: bool) -> np.ndarray:
    """Per training image of an epoch with its evaluation; the script also tests after every epoch, the trainer once."""
    train, evaluate = per_image[:, 0], per_image[:, 1]
    return train + evaluate * (VALIDATED + TESTED * tested) / TRAINED


def row(side: str, part: str, per_image: np.ndarray, unit: np.ndarray) -> dict[str, Any]:
    low, middle, high = np.quantile(unit / per_image, (0.25, 0.5, 0.75))
    return {
        "side": side, "part": part, "ratio": middle, "low": low, "high": high,
        "images_per_second": float(np.median(1 / per_image)), "rounds": len(per_image),
    }  # fmt: skip


def seeds_per_hour(setting: Setting, at_once: int, rounds: int, steps: int) -> list[dict[str, Any]]:
    """Runs at once on one GPU, or on the cores shared out among them, against one after another on all of it."""
    alone = Child(setting)
    alone.seconds("train", 2)
    shared = dataclasses.replace(setting, threads=max(1, setting.threads // at_once))
    together = [Child(shared) for _ in range(at_once)]
    for child in together:
        child.seconds("train", 2)
    taken = np.array([(alone.seconds("train", steps), _all(together, steps) / at_once) for _ in range(rounds)])
    for child in (alone, *together):
        child.close()
    seeds = 3600 / (taken / steps * 180 * (TRAINED / setting.batch))  # of 180 epochs, evaluation left out
    names = "one after another", f"{at_once} at once"
    return [
        {**row(f"{setting.name}, {name}", "seeds", 1 / seeds[:, i], 1 / seeds[:, 0]), "images_per_second": ""}
        | {"seeds_per_hour": float(np.median(seeds[:, i]))}
        for i, name in enumerate(names)
    ]


def _all(children: Sequence[Child], steps: int) -> float:
    """Seconds until the slowest is done."""
    for child in children:
        child.ask("train", steps)
    return max(child.answer() for child in children)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: ratios with their quartiles, and images per second."""
    lines = ["| | part | times the straightforward loop | images/s | seeds/hour |", "|---|---|---:|---:|---:|"]
    for r in rows:
        ratio = f"{float(r['ratio']):.2f} ({float(r['low']):.2f} to {float(r['high']):.2f})"
        rates = (f"{float(r[key]):.3g}" if r.get(key) else "" for key in ("images_per_second", "seeds_per_hour"))
        lines.append(f"| {r['side']} | {r['part']} | {ratio} | {' | '.join(rates)} |")
    return "\n".join(lines)


def append(rows: Sequence[dict[str, Any]], setting: Setting, clock: str) -> None:
    facts = environment(setting.device, setting.threads)
    about = {"batch": str(setting.batch), "clock": clock}
    about |= {key: facts.get(key, "") for key in ("commit", "processor", "device", "threads", "torch")}
    path, columns = HERE / "results_training.csv", [*rows[0], "seeds_per_hour", *about]
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(columns)), restval="")
        if new:
            writer.writeheader()
        for r in rows:
            shown = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in r.items()}
            writer.writerow({**shown, **about})
    readme = HERE / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(START)
    made = f"{about['processor']}, {about['device']}, {about['threads']} threads, {clock} seconds, "
    made += f"batch {setting.batch}, torch {about['torch']}, commit {about['commit']}"
    after = rest.partition(END)[2]
    readme.write_text(f"{before}{START}\n{made}\n\n{table(rows)}\n{END}{after}", encoding="utf-8")


@click.command()
@click.option("--precision", "precisions", multiple=True, help="Of the trainer; default fp32 and bf16.")
@click.option("--compile/--no-compile", "compiled", default=None, help="The trainer; default on a GPU only.")
@click.option("--kept", is_flag=True, help="Also the straightforward loop with the allocator of a study's workers.")
@click.option("--batch", default=128, show_default=True)
@click.option("--rounds", default=9, show_default=True)
@click.option("--steps", type=int, help="A round's; default 2, on a GPU 50.")
@click.option("--threads", default=2, show_default=True)
@click.option("--at-once", default=0, help="So many runs side by side, in the last precision.")
@click.option("--clock", type=click.Choice(CLOCKS), default="wall", help="cpu, with one thread, on a shared machine.")
@click.option("--append", "store", is_flag=True, help="Add rows to results_training.csv, renew the table.")
def main(
    *,
    precisions: tuple[str, ...],
    compiled: bool | None,
    kept: bool,
    batch: int,
    rounds: int,
    steps: int | None,
    threads: int,
    at_once: int,
    clock: str,
    store: bool,
) -> None:
    """Images per second of the trainer, in those of a straightforward loop."""
    torch.set_num_threads(threads)
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    steps = steps or (50 if device != "cpu" else 2)
    plain = Setting("plain", batch, threads, device, keep=False)
    ours = [Setting(p, batch, threads, device, compiled) for p in precisions or ("fp32", "bf16")]
    verified(ours[0])
    loops = [plain, dataclasses.replace(plain, keep=True)] if kept else [plain]
    rows = measured([*loops, *ours], rounds, steps, clock)
    if at_once > 1:
        rows += seeds_per_hour(ours[-1], at_once, rounds, steps)
    print(f"{NETWORK.name}, {DATA.name}, batch {batch}, {device}, {threads} threads, {rounds} rounds of {steps} steps")
    print(table(rows))
    if store:
        append(rows, plain, clock)
    precision, wanted = FLOOR[device.partition(":")[0]]
    for r in rows:
        if r["part"] == "train" and precision in r["side"] and r["ratio"] < wanted:
            raise click.ClickException(f"{r['side']}: {r['ratio']:.2f} times the straightforward loop; wanted {wanted}")


if __name__ == "__main__":
    main()
