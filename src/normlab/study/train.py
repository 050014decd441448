"""The built-in training function: an arm of a study file, trained and tested.

It sees a resolved job and never asks which arm that is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normlab.layers import set_progress
from normlab.recipes import attach_rules, recipe
from normlab.seeding import Streams
from normlab.study.context import Context, Diverged
from normlab.study.data import Dataset, Split, load
from normlab.study.job import TrainJob, TrainSpec
from normlab.study.models import create_model

EVAL_BATCH = 1024


@dataclass(frozen=True)
class Examples:
    """One split on the device: images [n, C, H, W] float32 in [0, 1], labels [n]."""

    images: Tensor
    labels: Tensor

    def batches(self, size: int, streams: Streams, epoch: int) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Images, labels and the share of the epoch before them, in the order of this epoch's shuffle.

        The last batch may be smaller.
        """
        order = torch.from_numpy(streams.numpy("shuffle", epoch).permutation(len(self.labels)))
        parts = order.to(self.images.device).split(size)
        for step, batch in enumerate(parts):
            yield self.images[batch], self.labels[batch], step / len(parts)


@dataclass
class Best:
    """The model of the best epoch so far."""

    epoch: int
    accuracy: float
    state: dict[str, Tensor]


def train(arm: Mapping[str, Any], streams: Streams, context: Context) -> dict[str, Any]:
    """Train one network and test it.

    Args:
        arm: a `TrainJob` as plain JSON.
        streams: of this run's seed: "init" by parameter name, "model", "shuffle" and "dropout" by epoch.
        context: takes the curve (train_loss, validation_accuracy per epoch) and the checkpoints.

    Returns:
        test_accuracy and validation_accuracy in %, best_epoch (1-based), train_loss of the last epoch, and
        `correct`, [test examples] bool.

    Raises:
        Diverged: the training loss became non-finite; counted as chance level.
    """
    job = TrainJob.model_validate(arm)
    data = load(job.data.name, job.data.split_seed)
    fit, validation, test = (
        _on_device(split, data.scale, context) for split in (data.train, data.validation, data.test)
    )
    model, groups = _build(job, data, streams, context.device)
    optimizer = torch.optim.SGD(groups, lr=job.train.lr, momentum=job.train.momentum, fused=True)
    attach_rules(optimizer, model)
    first, best = _resume(context, model, optimizer)
    for epoch in range(first, job.train.epochs):
        set_lr(optimizer, job.train, epoch)
        loss = _epoch(model, optimizer, fit.batches(job.train.batch_size, streams, epoch), streams, epoch, job.train)
        if not math.isfinite(loss):
            raise _diverged(epoch, loss, data.num_classes)
        accuracy = 100 * evaluate(model, validation).double().mean().item()
        if best is None or accuracy > best.accuracy or job.train.select == "last":
            best = Best(epoch, accuracy, {name: value.clone() for name, value in model.state_dict().items()})
        context.log(train_loss=loss, validation_accuracy=accuracy)
        context.checkpoint(_state(epoch, model, optimizer, best), done=(epoch + 1) / job.train.epochs)
    assert best is not None
    model.load_state_dict(best.state)
    correct = evaluate(model, test).cpu().numpy()
    return {
        "test_accuracy": 100 * float(correct.mean()),
        "validation_accuracy": best.accuracy,
        "best_epoch": best.epoch + 1,
        "train_loss": context.rows[-1]["train_loss"],
        "correct": correct,
    }


def rehearse(jobs: Iterable[Mapping[str, Any]]) -> None:
    """Find what would stop every run before the first one starts.

    Raises:
        SpecError: data that cannot be split as asked, a network that cannot be built or prepared.
    """
    distinct = {repr((j.data, j.model, j.recipe)): j for j in map(TrainJob.model_validate, jobs)}
    for job in distinct.values():
        data = load(job.data.name, job.data.split_seed)
        _build(job, data, Streams(0), "cpu")


def set_lr(optimizer: torch.optim.Optimizer, train: TrainSpec, epoch: int) -> None:
    """Each group's learning rate for a whole epoch (0-based), from its own `initial_lr`.

    Source: Davis and Frank, official code: CosineAnnealingLR(T_max=epochs, eta_min=1e-8), in closed form, so that a
    resumed run needs no scheduler state.
    """
    for group in optimizer.param_groups:
        start = group.setdefault("initial_lr", group["lr"])
        if train.schedule == "cosine":
            half = (1 + math.cos(math.pi * epoch / train.epochs)) / 2
            group["lr"] = train.eta_min + (start - train.eta_min) * half


@torch.no_grad()
def evaluate(model: nn.Module, examples: Examples) -> Tensor:
    """Which examples the model in eval mode classifies correctly: [n] bool."""
    model.eval()
    batches = zip(examples.images.split(EVAL_BATCH), examples.labels.split(EVAL_BATCH), strict=True)
    return torch.cat([model(images).argmax(1) == labels for images, labels in batches])


def _build(job: TrainJob, data: Dataset, streams: Streams, device: str) -> tuple[nn.Module, list[dict[str, Any]]]:
    """The network as its recipe wants it, and the parameter groups for an optimizer."""
    chosen = recipe(job.recipe)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(streams.integer("model"))  # for what the recipe leaves as the model made it
        model = create_model(job.model.name, in_channels=data.in_channels, num_classes=data.num_classes)
    model = chosen.prepare(model, streams=streams, in_channels=data.in_channels)
    # 15 % faster on a CPU than NCHW; torch's type overloads do not know this argument
    model = model.to(device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return model, chosen.param_groups(model, lr=job.train.lr, weight_decay=job.train.weight_decay)


def _state(epoch: int, model: nn.Module, optimizer: torch.optim.Optimizer, best: Best) -> dict[str, Any]:
    return {"epoch": epoch + 1, "model": model.state_dict(), "optimizer": optimizer.state_dict(), "best": vars(best)}


def _resume(context: Context, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, Best | None]:
    state = context.restore()
    if state is None:
        return 0, None
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["epoch"], Best(**state["best"])


def _on_device(split: Split, scale: float, context: Context) -> Examples:
    images = torch.from_numpy(split.images).to(context.device)
    images = images.float().mul_(scale).contiguous(memory_format=torch.channels_last)
    return Examples(images, torch.from_numpy(split.labels).to(context.device))


def _epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[tuple[Tensor, Tensor, float]],
    streams: Streams,
    epoch: int,
    train: TrainSpec,
) -> float:
    """One pass over the training examples; the mean loss over them."""
    model.train()
    total, count, listeners = 0.0, 0, 1
    lr_share = optimizer.param_groups[0]["lr"] / optimizer.param_groups[0]["initial_lr"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(streams.integer("dropout", epoch))
        for images, labels, part in batches:
            listeners = listeners and set_progress(model, (epoch + part) / train.epochs, lr_share=lr_share)
            loss = nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total, count = total + loss.detach().double() * len(labels), count + len(labels)
    return float(total / count)


def _diverged(epoch: int, loss: float, num_classes: int) -> Diverged:
    chance = 100 / num_classes
    metrics = {"test_accuracy": chance, "validation_accuracy": chance, "best_epoch": 0, "train_loss": math.inf}
    return Diverged(f"loss is {loss} in epoch {epoch + 1}", metrics, counted_as=f"chance level, {chance:g} %")
