"""Encoded images → uint8 arrays."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from normlab.errors import DataError, Unavailable

if TYPE_CHECKING:
    from PIL.Image import Image

Fit = Literal["crop", "stretch"]
Channels = Literal[1, 3]
AT_ONCE = 512
DEEP = ("I", "I;16", "I;16B", "F")  # modes of Pillow whose values do not fit a byte
GREY = ("1", "L", "LA", *DEEP)


def decoded(
    encoded: Iterable[bytes], *, channels: int, resize: int | None, fit: Fit, named: Callable[[int], str]
) -> Iterator[NDArray[np.uint8]]:
    """Each image as [C, H, W].

    Args:
        encoded: the contents of image files.
        channels: 3, which a grey image becomes too; or 1.
        resize: length of the shorter side afterwards, by Pillow's antialiased bilinear filter as in torchvision; None
            leaves the image as it is.
        fit: how a resized image becomes a square: "crop" keeps its middle, "stretch" lets both sides be `resize`.
        named: each of them, by its number, for messages.

    Raises:
        DataError: an image that cannot be decoded, or would lose colours or bits; says which.
    """
    _pillow()

    def one(numbered: tuple[int, bytes]) -> NDArray[np.uint8]:
        return _one(numbered[1], channels, resize, fit, named(numbered[0]))

    waiting = enumerate(encoded)
    with ThreadPoolExecutor() as threads:  # Pillow's decoders and filters let other threads run
        while batch := list(islice(waiting, AT_ONCE)):
            yield from threads.map(one, batch)


def image_shape(encoded: bytes, *, resize: int | None, what: str) -> tuple[int, int, int]:
    """[C, H, W] that `decoded` would give, where all images are like this one: grey or in colour."""
    image = _opened(encoded, what)
    channels = 1 if image.mode in GREY else 3
    return (channels, image.height, image.width) if resize is None else (channels, resize, resize)


def _one(encoded: bytes, channels: int, resize: int | None, fit: Fit, what: str) -> NDArray[np.uint8]:
    try:
        image = _opened(encoded, what)
        if channels == 1 and image.mode not in GREY:
            raise DataError(
                f"{what} is in colour, and grey is wanted, by channels=1 or as the first one is; channels=3 keeps them"
            )
        if image.mode in DEEP:
            raise DataError(f"{what} has more than 8 bits a pixel (mode {image.mode}), which would be lost")
        image = image.convert("L" if channels == 1 else "RGB")
        if resize is not None:
            image = _square(image, resize, fit)
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{what} cannot be decoded: {error}") from None
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _square(image: Image, side: int, fit: Fit) -> Image:
    from PIL.Image import Resampling

    if fit == "stretch":
        return image.resize((side, side), Resampling.BILINEAR)
    width, height = image.size
    shorter = min(width, height)
    left, top = (width - shorter) // 2, (height - shorter) // 2
    return image.resize((side, side), Resampling.BILINEAR, box=(left, top, left + shorter, top + shorter))


def _opened(encoded: bytes, what: str) -> Image:
    pillow: Any = _pillow()
    try:
        return pillow.open(io.BytesIO(encoded))
    except pillow.UnidentifiedImageError:
        raise DataError(f"{what} cannot be decoded: no image that Pillow knows, or a damaged one") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{what} cannot be decoded: {error}") from None


def _pillow() -> Any:
    try:
        import PIL.Image
    except ImportError:
        raise Unavailable("decoding images needs Pillow: pip install 'normlab[data]'") from None
    return PIL.Image
