"""How much the output for an example depends on the rest of its batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normlab.errors import SpecError, require
from normlab.probes.whole.calls import require_values
from normlab.surgery import norm_sites, stats_mode
from normlab.surgery.statistics.kept import kept
from normlab.surgery.trial import outputs


@dataclass(frozen=True)
class BatchDependence:
    """Differences between the output in the whole batch and in half of it.

    Args:
        by_example: root mean square of the difference, in units of the output's own, [N].
    """

    by_example: Tensor

    @property
    def mean(self) -> float:
        """Their mean: 0 where examples do not see each other."""
        return float(self.by_example.mean())

    @property
    def max(self) -> float:
        """The largest."""
        return float(self.by_example.max())


def batch_dependence(model: nn.Module, x: Tensor) -> BatchDependence:
    """Normalize by the batch, once whole and once in two halves; all else is in eval mode, and nothing is remembered.

    What examples learn of each other this way leaks labels in contrastive learning, and makes a sample of a generator
    depend on its neighbours.

    Args:
        x: a batch of 4 or more.

    Raises:
        SpecError: a smaller batch; a model without a tensor in its output.
    """
    require_values(model)
    require(x, Tensor, "x is a batch, a tensor")
    n = len(x) if x.dim() else 0
    if n < 4:
        raise SpecError(f"a batch of {n} cannot be halved to batches of 2 or more: give 4 examples or more")
    tracked = any(kept(site.module) is not None for site in norm_sites(model))

    def run(part: Tensor) -> Tensor:
        if not tracked:
            found = outputs(model, part, training=False)
        else:
            with stats_mode(model, "batch"):
                found = outputs(model, part, training=False)
        if not found:
            raise SpecError(f"{type(model).__name__} gives no tensor of floating point")
        return torch.cat([value.reshape(len(part), -1).double() for value in found], 1)

    whole = run(x)
    halves = torch.cat([run(x[: n // 2]), run(x[n // 2 :])])
    scale = (whole - whole.mean(0)).square().mean().sqrt()
    off = (whole - halves).square().mean(1).sqrt()
    return BatchDependence(torch.where(off == 0, 0, off / scale))
