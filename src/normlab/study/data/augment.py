"""What happens to training images: a whole batch at a time, on the device it is on, uint8 in and uint8 out.

All random numbers of an epoch are drawn at once, by training example, on the CPU: an example gets the same crop
whatever batch, process or device it lands in, and nothing waits for the device within the epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from normlab.registry import Registry
from normlab.seeding import Streams

Size = tuple[int, int]


class Augment(Protocol):
    """One step: draws numbers for every example, and applies those of a batch to it."""

    def after(self, size: Size) -> Size:
        """Height and width of what comes out, where images of `size` go in.

        Raises:
            SpecError: it cannot take such images.
        """
        ...

    def draw(self, rng: np.random.Generator, examples: int, size: Size) -> Tensor:
        """[examples, ...] what is done to each of them."""
        ...

    def apply(self, batch: Tensor, drawn: Tensor) -> Tensor:
        """[b, C, H, W] uint8 → the same, or another height and width; `drawn` [b, ...] belongs to these images."""
        ...

    def center(self, batch: Tensor) -> Tensor:
        """What evaluation does instead."""
        ...


AUGMENTS: Registry[Augment] = Registry("augmentation")


@dataclass(frozen=True)
class Augmentation:
    """The steps of one epoch, with what was drawn for each example."""

    steps: tuple[Augment, ...]
    drawn: tuple[Tensor, ...]

    def apply(self, batch: Tensor, indices: Tensor) -> Tensor:
        """Augment a batch.

        Args:
            batch: [b, C, H, W] uint8.
            indices: [b] which training examples these are, on the same device.
        """
        for step, drawn in zip(self.steps, self.drawn, strict=True):
            batch = step.apply(batch, drawn[indices])
        return batch


def augmentation(
    specs: Sequence[str], streams: Streams, epoch: int, examples: int, size: Size, device: str | torch.device
) -> Augmentation:
    """What happens to the training images in one epoch.

    Args:
        specs: steps in order, "flip", "crop(padding=4)", "resized_crop(size=224)".
        streams: of the run; "augment" by epoch and step is used.
        examples: number of training examples.
        size: height and width of the images.
    """
    steps, drawn = _steps(specs), list[Tensor]()
    for number, step in enumerate(steps):
        drawn.append(step.draw(streams.numpy("augment", epoch, number), examples, size).to(device, non_blocking=True))
        size = step.after(size)
    return Augmentation(steps, tuple(drawn))


def center(specs: Sequence[str], batch: Tensor) -> Tensor:
    """What evaluation sees of a batch [b, C, H, W] uint8: the middle, where training crops to a size."""
    for step in _steps(specs):
        batch = step.center(batch)
    return batch


def output_size(specs: Sequence[str], size: Size) -> Size:
    """Height and width of augmented images.

    Raises:
        SpecError: a step that cannot take what the one before it gives.
    """
    for step in _steps(specs):
        size = step.after(size)
    return size


def canonical_augment(specs: Sequence[str]) -> list[str]:
    """The steps with their defaults written out.

    Raises:
        SpecError: a step that does not exist or cannot take its argument.
    """
    return [str(AUGMENTS.parse(spec)) for spec in specs]


def _steps(specs: Sequence[str]) -> tuple[Augment, ...]:
    return tuple(AUGMENTS.create(spec) for spec in specs)
