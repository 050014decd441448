"""How good a network is on examples that it is not trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normlab.study.context import Diverged
from normlab.study.data.examples import Examples
from normlab.study.distributed import World
from normlab.study.training.arithmetic import Arithmetic
from normlab.study.training.feed import Feed


@dataclass(frozen=True)
class Evaluation:
    """Of a network in eval mode.

    Attributes:
        correct: [n] bool, which examples were classified correctly.
        loss: mean cross-entropy, without label smoothing; NaN of no examples.
    """

    correct: Tensor
    loss: float

    @property
    def accuracy(self) -> float:
        """In %; NaN of no examples."""
        return 100 * self.correct.cpu().double().mean().item()


@torch.no_grad()
def evaluate(model: nn.Module, feed: Feed, part: Examples, arithmetic: Arithmetic, world: World) -> Evaluation:
    """Classify a split, in eval mode; each process takes its part of it, and all know the whole. It may be empty.

    The model stays in eval mode.
    """
    model.eval()
    mine = torch.arange(len(part), device=part.labels.device)[world.part(len(part))]
    correct, losses = [mine.new_empty(0, dtype=torch.bool)], [mine.new_empty(0, dtype=torch.float32)]
    for indices in mine.split(feed.evaluated_at_once) if len(mine) else ():  # an empty tensor has one, empty, part
        images, labels = feed.evaluated(part, indices)
        with arithmetic.autocast():
            scores = model(images)
        correct.append(scores.argmax(1) == labels)
        losses.append(F.cross_entropy(scores.float(), labels, reduction="none"))
    every = world.gather(torch.cat(losses), len(part))
    return Evaluation(world.gather(torch.cat(correct), len(part)), every.cpu().double().mean().item())


def diverged(reason: str, data: Feed) -> Diverged:
    """What a run counts as that became non-finite, `loss is nan in epoch 12`."""
    chance = 100 / data.num_classes
    parts = ("test", "validation", "train") if len(data.validation) else ("test", "train")
    metrics = {f"{part}_accuracy": chance for part in parts} | {f"{part}_loss": math.inf for part in parts}
    return Diverged(reason, {**metrics, "best_epoch": 0}, counted_as=f"chance level, {chance:g} %")
