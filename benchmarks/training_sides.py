"""The two training loops that bench_training.py compares, each in a process of its own.

    python -m benchmarks.training_sides '{"side": "plain", ...}'

reads lines `train 3` and `evaluate 512`, and answers each with `took`, its seconds, and those of the processor.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from normlab.seeding import Streams
from normlab.study.context import Context
from normlab.study.data import Split, load
from normlab.study.data.examples import Examples
from normlab.study.job import DataSpec, ModelSpec, TrainJob, TrainSpec
from normlab.study.models import create_model, import_torchvision
from normlab.study.training import Trainer, set_lr
from normlab.study.training.feed import Epoch
from normlab.study.training.kept import Midway

DATA = DataSpec(name="cifar10")
NETWORK = ModelSpec(name="torchvision:resnet18", stem="cifar")


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is measured.

    Attributes:
        side: "plain", or a precision of the trainer.
        compile: with torch.compile; None is the trainer's default.
        keep: the allocator keeps large blocks, as in the workers of a study.
    """

    side: str
    batch: int
    threads: int
    device: str
    compile: bool | None = None
    keep: bool = True

    @property
    def name(self) -> str:
        """As tables show it."""
        name = "straightforward loop" if self.side == "plain" else f"normlab, {self.side}"
        name += {None: "", True: ", compiled", False: ", not compiled"}[self.compile]
        return f"{name}, memory kept" if self.side == "plain" and self.keep else name


class Pictures(torch.utils.data.Dataset[tuple[Any, int]]):
    """A split as torchvision.datasets gives it: a PIL image at a time, through the transforms."""

    def __init__(self, split: Split, transform: Any) -> None:
        self.images, self.labels = split.images.transpose(0, 2, 3, 1).copy(), split.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


class Plain:
    """The loop of the paper's released script: a DataLoader in this process, eager float32, NCHW, torch.nn alone.

    Source: Davis and Frank, official code, `train.py`, with its default of BatchNorm on the input.
    """

    def __init__(self, setting: Setting) -> None:
        transforms = import_torchvision().transforms
        data = load(DATA)
        self.device, self.batch = setting.device, setting.batch
        self.network = plain_network(data.in_channels, data.num_classes).to(self.device)
        self.optimizer = plain_optimizer(self.network)
        augment = transforms.Compose([transforms.RandomHorizontalFlip(), transforms.ToTensor()])
        pin = torch.device(self.device).type == "cuda"
        self.train_loader = torch.utils.data.DataLoader(
            Pictures(data.train, augment), batch_size=self.batch, shuffle=True, pin_memory=pin, drop_last=True
        )
        self.test_loader = torch.utils.data.DataLoader(
            Pictures(data.test, transforms.ToTensor()), batch_size=self.batch, pin_memory=pin, drop_last=True
        )
        self.batches, self.tests = endless(self.train_loader), endless(self.test_loader)

    def train(self, steps: int) -> None:
        self.network.train()
        for _ in range(steps):
            images, labels = next(self.batches)
            plain_step(self.network, self.optimizer, images.to(self.device), labels.to(self.device)).item()

    @torch.no_grad()
    def evaluate(self, examples: int) -> None:
        self.network.eval()
        for _ in range(examples // self.batch):
            images, labels = next(self.tests)
            scores = self.network(images.to(self.device))
            (scores.argmax(1) == labels.to(self.device)).sum().item()


def endless(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


def plain_network(in_channels: int, num_classes: int) -> nn.Module:
    network = create_model(NETWORK, in_channels=in_channels, num_classes=num_classes)  # torchvision's, of torch.nn
    norm = nn.BatchNorm2d(in_channels)
    norm.bias.requires_grad_(requires_grad=False)
    return nn.Sequential(norm, network)


def plain_optimizer(network: nn.Module) -> torch.optim.SGD:
    parameters = [p for p in network.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 1e-4},
    ]
    return torch.optim.SGD(groups, lr=0.1, momentum=0.9)


def plain_step(network: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> Tensor:
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(network(images), labels)
    loss.backward()
    optimizer.step()
    return loss


class Ours:
    """The built-in trainer, its own loop over the batches of an epoch."""

    def __init__(self, setting: Setting) -> None:
        self.batch = setting.batch
        self.place = tempfile.TemporaryDirectory()
        options: dict[str, Any] = {"precision": setting.side, "compile": setting.compile, "augment": ["flip"]}
        job = TrainJob(
            data=DATA,
            model=NETWORK,
            train=TrainSpec(epochs=180, batch_size=self.batch, lr=0.1, **options),
            recipe="baseline",
        )
        context = Context(Path(self.place.name), setting.device, checkpoint_seconds=3600.0)
        self.trainer = Trainer(job, Streams(1), context)
        set_lr(self.trainer.optimizer, job.train, 0)
        self.midway = Midway.start(setting.device, 0.0)
        self.epochs = 0

    def train(self, steps: int) -> None:
        epoch = self.trainer.data.epoch(self.trainer.streams, self.epochs)
        some = Epoch(epoch.order[: steps * self.batch], epoch.augmentation)
        with self.trainer.arithmetic.applied():
            self.trainer._batches(self.epochs, some, self.midway)
        self.epochs += 1

    def evaluate(self, examples: int) -> None:
        test, count = self.trainer.data.test, examples // self.batch * self.batch
        self.trainer.evaluate(Examples(test.pool, test.rows[:count], test.labels[:count]))


def main() -> None:
    setting = Setting(**json.loads(sys.argv[1]))
    torch.set_num_threads(setting.threads)
    torch.manual_seed(0)
    side = Plain(setting) if setting.side == "plain" else Ours(setting)
    print("took 0 0", flush=True)  # it stands
    for line in sys.stdin:
        verb, count = line.split()
        start, busy = time.perf_counter(), time.process_time()
        (side.train if verb == "train" else side.evaluate)(int(count))
        if torch.device(setting.device).type == "cuda":
            torch.cuda.synchronize()
        print("took", time.perf_counter() - start, time.process_time() - busy, flush=True)


if __name__ == "__main__":
    main()
