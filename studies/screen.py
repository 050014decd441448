"""Does what `normlab screen` measures before training agree with what training gives?

Holds the training function of screen.toml. As a script it makes the runs of that study, screens the same networks on
the same data, and writes results/screen. A finished run is never made again.

    NORMLAB_DATA_DIR=FOLDER python studies/screen.py [--store DIR] [--out DIR]

The panel fashion takes Fashion-MNIST from FOLDER/fashion_mnist, or else from the Hugging Face hub (docs/guide/data.md).
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import screen_report
import torch
from torch import nn
from torch.nn import functional as F

import normlab
from normlab import Diverged, Streams, Study
from normlab.errors import DataError
from normlab.layers import set_progress
from normlab.recipes import recipe
from normlab.screen import Screening, put
from normlab.study.data import load
from normlab.study.data.parts import split_by_class
from normlab.study.job import DataSpec
from normlab.study.models import ResNet
from normlab.study.objects import split_call

PANELS = {
    "residual": {
        "model": "residual(blocks=(3, 3, 3), width=8)",
        "data": "digits(train=300)",
        "batch_size": 32,
        "epochs": 12,
        "lr": 0.1,
    },
    "plain": {
        "model": "plain(stages=(3, 3, 3), width=16)",
        "data": "digits(train=300)",
        "batch_size": 32,
        "epochs": 10,
        "lr": 0.1,
    },
    "small_batch": {
        "model": "residual(blocks=(2, 2, 2), width=8)",
        "data": "digits(train=300)",
        "batch_size": 4,
        "epochs": 2,
        "lr": 0.05,
    },
    "fashion": {
        "model": "residual(blocks=(2, 2, 2), width=8)",
        "data": "fashion",
        "batch_size": 32,
        "epochs": 8,
        "lr": 0.05,
    },
}
"""What is trained in each panel. The score of `normlab screen` was chosen on the first."""

FASHION = DataSpec(name="fashion_mnist(validation=0.0)")


def residual(in_channels: int = 1, blocks: tuple[int, ...] = (3, 3, 3), width: int = 8) -> nn.Module:
    """A residual network of 2 · Σ blocks + 2 layers."""
    return ResNet(in_channels, 10, blocks=tuple(blocks), width=width)


def plain(in_channels: int = 1, stages: tuple[int, ...] = (4, 4, 4), width: int = 16) -> nn.Module:
    """Convolution, BatchNorm, ReLU, again and again, without shortcuts; each stage after the first halves the image."""
    layers: list[nn.Module] = []
    channels = in_channels
    for stage, count in enumerate(stages):
        for block in range(count):
            stride = 2 if stage > 0 and block == 0 else 1
            layers += [nn.Conv2d(channels, width << stage, 3, stride, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(width << stage), nn.ReLU()]
            channels = width << stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


NETWORKS = {"residual": residual, "plain": plain}


def network(spec: str) -> nn.Module:
    """`residual(width=8)` → the network."""
    name, arguments = split_call(spec, "model")
    return NETWORKS[name](**arguments)


def examples(name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Training images [n, 1, H, W] and labels, test images and labels; standardized by the training images."""
    if name == "fashion":
        fit, fit_labels, test, test_labels = _fashion()
    else:
        data = load(DataSpec(name=name))
        fit, test = (torch.from_numpy(split.images).float() for split in (data.train, data.test))
        fit_labels, test_labels = (torch.from_numpy(split.labels) for split in (data.train, data.test))
    std, mean = torch.std_mean(fit)
    return (fit - mean) / std, fit_labels, (test - mean) / std, test_labels


@functools.cache
def _fashion() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """400 training and 1,000 test images of Fashion-MNIST, equally many of each class, averaged to 14x14."""
    data, found = load(FASHION), []
    for part, size in ((data.train, 400), (data.test, 1000)):
        chosen = split_by_class(part.labels, {"images": size}, Streams(0).numpy("split"))[0]
        found += [F.avg_pool2d(torch.tensor(part.images[chosen]).float(), 2), torch.tensor(part.labels[chosen])]
    return found[0], found[1], found[2], found[3]


def train(arm, streams, context):
    """SGD with momentum and half a cosine; the model of the last epoch is tested."""
    torch.set_num_threads(1)
    panel = PANELS[arm["panel"]]
    fit, labels, test, test_labels = examples(panel["data"])
    model = put(network(panel["model"]), arm["norm"], streams).to(memory_format=torch.channels_last)
    groups = recipe("baseline").param_groups(model, lr=panel["lr"], weight_decay=1e-4)
    optimizer = torch.optim.SGD(groups, lr=panel["lr"], momentum=0.9)
    first = 0
    if (state := context.restore()) is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["epoch"]
    for epoch in range(first, panel["epochs"]):
        for group in optimizer.param_groups:
            group["lr"] = panel["lr"] * (1 + math.cos(math.pi * epoch / panel["epochs"])) / 2
        loss = _epoch(model, optimizer, fit, labels, panel, streams, epoch)
        if not math.isfinite(loss):
            raise Diverged(f"loss is {loss} in epoch {epoch + 1}", {"accuracy": 10.0}, counted_as="chance level, 10 %")
        context.log(train_loss=loss)
        state = {"epoch": epoch + 1, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
        context.checkpoint(state, done=(epoch + 1) / panel["epochs"])
    model.eval()
    with torch.no_grad():
        scores = torch.cat([model(part) for part in test.split(500)])
    correct = scores.argmax(1) == test_labels
    return {"accuracy": 100 * correct.double().mean().item(), "correct": correct.numpy()}


def _epoch(model, optimizer, fit, labels, panel, streams, epoch) -> float:
    model.train()
    order = torch.from_numpy(streams.numpy("shuffle", epoch).permutation(len(labels)))
    whole = order[: len(order) // panel["batch_size"] * panel["batch_size"]]
    total = 0.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(streams.integer("dropout", epoch))
        for batch in whole.split(panel["batch_size"]):
            set_progress(model, epoch / panel["epochs"])
            loss = F.cross_entropy(model(fit[batch].contiguous(memory_format=torch.channels_last)), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() / len(whole) * len(batch)
    return total


SPEC = Path(__file__).with_name("screen.toml")


def study() -> Study:
    """That of screen.toml; without fashion where its data is not there."""
    overrides = []
    try:
        load(FASHION)
    except DataError as error:
        print(f"without the panel fashion: {error}", file=sys.stderr)
        overrides = [f"grid.panel={[name for name in PANELS if name != 'fashion']}"]
    return Study.load(SPEC, overrides)


def main() -> None:
    """Train what has not been trained, screen, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, help="where runs are kept; default runs/screen")
    parser.add_argument("--out", type=Path, default=SPEC.parent.parent / "results" / "screen")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--ship", action="store_true", help="put the result into the package, whose command prints it")
    given = parser.parse_args()
    results = study().run(store=given.store, workers=given.workers)
    written = screen_report.write(results, PANELS, screened, given.out)
    if given.ship:
        place = files("normlab.screen") / "agreement.json"
        Path(str(place)).write_text(written.read_text(encoding="utf-8"), encoding="utf-8")


def screened(panel: str, norms: Sequence[str]) -> Screening:
    """What the command finds for a panel, before any training."""
    torch.set_num_threads(1)  # more do not help networks of this size
    setting = PANELS[panel]
    fit, labels, *_ = examples(setting["data"])
    make = functools.partial(network, setting["model"])
    return normlab.screen(make, (fit, labels), batch_size=setting["batch_size"], norms=norms)


if __name__ == "__main__":
    main()
