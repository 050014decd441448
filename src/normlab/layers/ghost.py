"""Ghost Batch Normalization: batch normalization of parts of the batch."""

from __future__ import annotations

from typing import Unpack

import torch

from normlab import functional as F
from normlab.errors import SpecError
from normlab.functional import Moments
from normlab.layers.base import NORMS, MixNorm
from normlab.layers.running import BatchLayer, BatchOptions


@NORMS.register("ghost")
class GhostBatchNorm(MixNorm, BatchLayer):
    """Normalize each channel by the moments of a ghost batch: `ghost_size` neighbouring examples of the batch.

    The running statistics get the ghost batches one after another, as if each had come alone:

        running ← (1 - a)^K · running + Σ_i a (1 - a)^(K - i) · moments of ghost batch i,   i = 1 … K

    Args:
        num_features: C, the number of channels.
        ghost_size: examples in a ghost batch; the batch is a multiple of it, or no larger.
        options: see `BatchOptions`.

    Raises:
        SpecError: on a call in training, a batch that cannot be cut into ghost batches of this size.

    Source: Hoffer et al., arXiv:1705.08741, algorithm 1.
    """

    def __init__(self, num_features: int, *, ghost_size: int = 32, **options: Unpack[BatchOptions]) -> None:
        super().__init__(num_features, **options)
        if ghost_size < 1:
            raise SpecError(f"ghost_size={ghost_size} should be a number of examples, 1 or more")
        if self.sync:
            raise SpecError("ghost batches are parts of one process's batch: sync=True would join them; leave it out")
        self.ghost_size = ghost_size

    def mix(self, m: Moments) -> Moments:
        """The moments of each example's ghost batch."""
        n, c = m.shape
        size = min(self.ghost_size, n)
        if not self.takes_batch(m.size, size * m.count):
            return self.running_moments()
        if size == n:
            return self.batch_moments(m)
        if n % size:
            raise SpecError(
                f"a batch of {n} is no multiple of ghost_size={size}: use drop_last=True in the DataLoader, or a size "
                f"that divides {n}"
            )
        members = (n // size, size, c)
        ghosts = F.pool(Moments(m.mean.reshape(members), m.var.reshape(members), m.count), 1)
        self._count(ghosts)
        return Moments(
            ghosts.mean.expand(members).reshape(n, c), ghosts.var.expand(members).reshape(n, c), ghosts.count
        )

    def _count(self, ghosts: Moments) -> None:
        """Average the moments [K, 1, C] of K ghost batches into the running ones, in their order."""
        k = len(ghosts.mean)
        age = torch.arange(k - 1, -1, -1, dtype=ghosts.mean.dtype, device=ghosts.mean.device)
        weights = torch.ones_like(age) if self.momentum is None else (1 - self.newest_share()) ** age
        weights = weights / weights.sum()
        mean, var = (weights @ v[:, 0].detach() for v in (ghosts.mean, self.to_store(ghosts)))
        self.update(batches=k, running_mean=mean, running_var=var)
