"""The processes that a model is trained in, as far as rules compare them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from normlab.errors import Unavailable


@dataclass(frozen=True)
class Processes:
    """Those of torch.distributed."""

    rank: int
    size: int

    def tell(self, value: Any) -> list[Any]:
        """What every process says here, by its rank; one collective.

        Raises:
            Unavailable: one of them is gone.
        """
        found: list[Any] = [None] * self.size
        try:
            dist.all_gather_object(found, value)
        except RuntimeError:
            raise Unavailable("another process has ended; what it printed says why") from None
        return found


def processes() -> Processes | None:
    """None where there is no other."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return None
    return Processes(dist.get_rank(), dist.get_world_size())
