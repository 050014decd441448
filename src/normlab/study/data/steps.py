"""The steps of augmentation: flips, crops, resized crops; each draws for an epoch and works on whole batches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from normlab.errors import SpecError
from normlab.study.data.augment import AUGMENTS, Size


@AUGMENTS.register("flip")
@dataclass(frozen=True)
class Flip:
    """Left and right exchanged, in half of the images."""

    def after(self, size: Size) -> Size:
        """Unchanged."""
        return size

    def draw(self, rng: np.random.Generator, examples: int, size: Size) -> Tensor:
        """[examples] bool."""
        del size
        return torch.from_numpy(rng.random(examples) < 0.5)

    def apply(self, batch: Tensor, drawn: Tensor) -> Tensor:
        """Mirror where drawn."""
        return torch.where(drawn[:, None, None, None], batch.flip(3), batch)

    def center(self, batch: Tensor) -> Tensor:
        """As it is."""
        return batch


@AUGMENTS.register("crop")
@dataclass(frozen=True)
class Crop:
    """A window at a random place of the image.

    Args:
        size: height and width of the window; default those of the image.
        padding: black pixels put around the image first.
    """

    size: int | None = None
    padding: int = 0

    def after(self, size: Size) -> Size:
        """The window's."""
        window = size if self.size is None else (self.size, self.size)
        padded = size[0] + 2 * self.padding, size[1] + 2 * self.padding
        if self.padding < 0 or min(window) < 1:
            raise SpecError(f"crop(size={self.size}, padding={self.padding}): size from 1, padding from 0")
        if padded[0] < window[0] or padded[1] < window[1]:
            raise SpecError(f"crop(size={self.size}, padding={self.padding}) does not fit images of {_text(size)}")
        if padded == window:
            raise SpecError(f"crop of images of {_text(size)} does nothing: add padding, crop(padding=4), or a size")
        return window

    def draw(self, rng: np.random.Generator, examples: int, size: Size) -> Tensor:
        """[examples, 2] int64: top and left."""
        window = self.after(size)
        room = [s + 2 * self.padding - w + 1 for s, w in zip(size, window, strict=True)]
        return torch.from_numpy(rng.integers(0, room, size=(examples, 2)))

    def apply(self, batch: Tensor, drawn: Tensor) -> Tensor:
        """The windows."""
        height, width = self.after((batch.shape[2], batch.shape[3]))
        windows = F.pad(batch, (self.padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)  # a view of them all
        return windows[torch.arange(len(batch), device=batch.device), :, drawn[:, 0], drawn[:, 1]]

    def center(self, batch: Tensor) -> Tensor:
        """The window in the middle; the whole image where the window has its size."""
        if self.size is None:
            return batch
        padded = F.pad(batch, (self.padding,) * 4)
        top, left = ((padded.shape[axis] - self.size) // 2 for axis in (2, 3))
        return padded[:, :, top : top + self.size, left : left + self.size]


TRIES = 10  # draws of a window, of which the first that fits is taken
MIDDLE = 0.875  # share of the shorter side that evaluation sees: 224 pixels of 256


@AUGMENTS.register("resized_crop")
@dataclass(frozen=True)
class ResizedCrop:
    """A window of random area and shape at a random place, resized; the augmentation of ImageNet.

    Where ten draws give no window within the image, it is the largest one in the middle whose shape is allowed.
    Interpolation is bilinear between the four nearest pixels of the image, those beside the window among them, without
    antialiasing: images should not be much larger than `size`.

    Args:
        size: height and width of what comes out; default those of the image.
        area: smallest share of the image's area; the largest is all of it.
        aspect: largest ratio of width to height, and of height to width.

    Source: Szegedy et al., Going Deeper with Convolutions (2015), section 6; the draw is torchvision's.
    """

    size: int | None = None
    area: float = 0.08
    aspect: float = 4 / 3

    def after(self, size: Size) -> Size:
        """The window's, resized."""
        if (self.size is not None and self.size < 1) or not 0 < self.area <= 1 or not 1 <= self.aspect < math.inf:
            text = f"resized_crop(size={self.size}, area={self.area}, aspect={self.aspect})"
            raise SpecError(f"{text}: size from 1, area above 0 up to 1, aspect from 1")
        return size if self.size is None else (self.size, self.size)

    def draw(self, rng: np.random.Generator, examples: int, size: Size) -> Tensor:
        """[examples, 4] float32: top, left, height, width of the window in pixels, whole numbers."""
        height, width = size
        area = rng.uniform(self.area, 1, (examples, TRIES)) * height * width
        ratio = np.exp(rng.uniform(-math.log(self.aspect), math.log(self.aspect), (examples, TRIES)))
        sides = np.rint(np.sqrt([area / ratio, area * ratio]))  # [2, examples, tries]
        fits = np.all((sides >= 1) & (sides <= np.reshape(size, (2, 1, 1))), axis=0)
        some, first = np.any(fits, axis=1), fits.argmax(axis=1)
        widest = np.rint([min(height, width * self.aspect), min(width, height * self.aspect)])
        sides = np.where(some, sides[:, np.arange(examples), first], widest[:, None])
        room = np.array([[height], [width]]) - sides
        places = np.where(some, np.floor(rng.random((2, examples)) * (room + 1)), room // 2)
        return torch.from_numpy(np.concatenate([places, sides]).T.astype(np.float32))

    def apply(self, batch: Tensor, drawn: Tensor) -> Tensor:
        """The windows, resized."""
        return _resized(batch, drawn, self.after((batch.shape[2], batch.shape[3])))

    def center(self, batch: Tensor) -> Tensor:
        """The middle 7/8 of the shorter side, resized; the whole image where no size is given."""
        if self.size is None:
            return batch
        sides = batch.shape[2], batch.shape[3]
        side = round(MIDDLE * min(sides))
        window = *((s - side) // 2 for s in sides), side, side
        columns = [torch.full((len(batch),), float(x), device=batch.device) for x in window]
        return _resized(batch, torch.stack(columns, 1), (self.size, self.size))


def _resized(batch: Tensor, windows: Tensor, size: Size) -> Tensor:
    """Each image's window [b, 4] (top, left, height, width) at another size, bilinear, rounded to uint8."""
    (top, left, height, width), sides = windows.unbind(1), (batch.shape[2], batch.shape[3])
    zero = torch.zeros_like(top)
    # from -1 to 1 over the image, and x before y, as grid_sample counts
    x = torch.stack([width / sides[1], zero, (2 * left + width) / sides[1] - 1], 1)
    y = torch.stack([zero, height / sides[0], (2 * top + height) / sides[0] - 1], 1)
    theta = torch.stack([x, y], 1)
    grid = F.affine_grid(theta, [len(batch), batch.shape[1], *size], align_corners=False)
    sampled = F.grid_sample(batch.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled.round_().to(torch.uint8)


def _text(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
