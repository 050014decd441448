"""From a dataset to the batches that a network takes, on the device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from normlab.errors import SpecError
from normlab.seeding import Streams
from normlab.study.data import load
from normlab.study.data.augment import Augmentation, augmentation, center, output_size
from normlab.study.data.examples import Examples, examples
from normlab.study.distributed import World
from normlab.study.job import TrainJob

EVALUATED_VALUES = 1 << 20  # of a batch in evaluation: 341 images of 3x32x32; more is no faster and takes memory
MOST_EVALUATED = 1024
RECALIBRATED = 8192  # training examples that the statistics of an averaged network come from


@dataclass(frozen=True)
class Epoch:
    """One pass over the training examples: their order [n], and what happens to each of them."""

    order: Tensor
    augmentation: Augmentation


@dataclass(frozen=True)
class Feed:
    """The examples of a run, on its device, where they stay uint8 until they are in a batch.

    Attributes:
        size: height and width of the images as they are stored.
        scale: turns a uint8 pixel into a number in [0, 1].
        layout: of a batch in memory.
    """

    train: Examples
    validation: Examples
    test: Examples
    num_classes: int
    in_channels: int
    size: tuple[int, int]
    scale: float
    augment: tuple[str, ...]
    facts: dict[str, str]
    layout: torch.memory_format = torch.contiguous_format

    @classmethod
    def of(cls, job: TrainJob, device: str) -> Feed:
        """What the job trains on.

        Raises:
            SpecError, DataError: as `data.load`; a crop that does not fit; the best validation epoch of no examples.
        """
        data = load(job.data)
        output_size(job.train.augment, data.shape[1:])
        if not len(data.validation) and job.train.select == "best_val":
            raise SpecError('train.select = "best_val" needs validation examples, and the data has none: "last"')
        return cls(
            *(examples(split, device) for split in (data.train, data.validation, data.test)),
            num_classes=data.num_classes,
            in_channels=data.in_channels,
            size=data.shape[1:],
            scale=data.scale,
            augment=tuple(job.train.augment),
            facts=dict(data.facts),
        )

    def epoch(self, streams: Streams, number: int) -> Epoch:
        """The order of an epoch's examples and their augmentation; all random numbers of the epoch are drawn here."""
        device, count = self.train.labels.device, len(self.train)
        order = torch.from_numpy(streams.numpy("shuffle", number).permutation(count)).to(device)
        return Epoch(order, augmentation(self.augment, streams, number, count, self.size, device))

    def training(self, epoch: Epoch, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images [b, C, H, W] float32 and labels [b] of these training examples, augmented."""
        images, labels = self.train.batch(indices)
        return self.floats(epoch.augmentation.apply(images, indices)), labels

    def some(self, epoch: Epoch, batch_size: int, world: World) -> Iterator[Tensor]:
        """Whole batches of up to `RECALIBRATED` training images of this epoch; the processes share them out."""
        size = min(batch_size, len(epoch.order))
        starts = range(0, min(len(epoch.order), max(RECALIBRATED, size)) - size + 1, size)
        for start in starts[world.rank :: world.size]:  # not parts of each, which would be other batches
            yield self.training(epoch, epoch.order[start : start + size])[0]

    def floats(self, images: Tensor) -> Tensor:
        """uint8 images as the network takes them."""
        return images.contiguous(memory_format=self.layout).float().mul_(self.scale)  # laid out while they are small

    def evaluated(self, part: Examples, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images and labels of a validation or test batch: not augmented, but the middle where training crops."""
        images, labels = part.batch(indices)
        return self.floats(center(self.augment, images)), labels

    @property
    def evaluated_at_once(self) -> int:
        """Examples of a batch in evaluation."""
        height, width = output_size(self.augment, self.size)
        return min(MOST_EVALUATED, max(1, EVALUATED_VALUES // (self.in_channels * height * width)))
