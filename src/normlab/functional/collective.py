"""One differentiable collective: rows of all processes, gradients added up."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, row: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        rows = row.new_empty(dist.get_world_size(group), row.shape[1])
        dist.all_gather(list(rows.split(1)), row.contiguous(), group=group)
        return rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        # every process used every row, so a row's gradient is the sum of theirs
        grad = grads[0].contiguous().clone()
        dist.all_reduce(grad, group=ctx.group)
        rank = dist.get_rank(ctx.group)
        return grad[rank : rank + 1], None


def gather_rows(row: Tensor, group: dist.ProcessGroup) -> Tensor:
    """[1, k] in each process → [processes, k] in all of them.

    The backward pass adds up what the processes want of each row, so that the loss that is minimized is the sum of
    the processes' losses; DDP then divides by their number, as it does for every other gradient.
    """
    return _GatherRows.apply(row, group)
