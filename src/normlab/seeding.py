"""One seed → independent named random streams.

A stream is found by its name and key alone, so nothing that one arm draws can move what another one draws:
arms that share a seed share initial values, order of batches and augmentation, even where one of them has more layers.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from normlab.errors import SpecError

if TYPE_CHECKING:
    import torch

SeedScheme = Literal["plain", "md5"]


def md5_seed(seed: int | str) -> int:
    """The paper's seed rule: the low 32 bits of md5 of the seed's decimal digits.

    Source: Davis and Frank, official code, `seeds.py`. Unique on 0..88265.
    """
    return int(hashlib.md5(str(seed).encode()).hexdigest()[-8:], 16)


def resolve_seed(seed: int, scheme: SeedScheme) -> int:
    """The number that feeds the streams for the run labelled `seed`."""
    if scheme not in ("plain", "md5"):
        raise SpecError(f"seed_scheme {scheme!r}: 'plain' or 'md5'")
    return md5_seed(seed) if scheme == "md5" else seed


@dataclass(frozen=True)
class Streams:
    """The random streams of one seed.

    A stream is named for its use (`init`, `shuffle`, `augment`, `split`, `dropout`, `probe`, or any name of yours) and
    may be keyed further, by a parameter's name or an epoch's number: `streams.torch("init", "conv1.weight")`.
    Asking twice gives the same numbers twice.
    """

    seed: int

    def integer(self, name: str, *key: str | int) -> int:
        """A number in [0, 2^63) of this stream, to seed any generator with."""
        text = json.dumps([self.seed, name, *key])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1

    def numpy(self, name: str, *key: str | int) -> np.random.Generator:
        """A NumPy generator at the start of this stream."""
        return np.random.default_rng(self.integer(name, *key))

    def torch(self, name: str, *key: str | int, device: str = "cpu") -> torch.Generator:
        """A torch generator at the start of this stream; the same device gives the same numbers."""
        import torch

        return torch.Generator(device).manual_seed(self.integer(name, *key))
