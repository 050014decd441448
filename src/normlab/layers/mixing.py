"""What layers share that mix channels or positions, so that they are more than scale and shift."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from normlab.functional.backends import channels_last
from normlab.functional.collective import gather_rows


def laid_out_as(y: Tensor, like: Tensor) -> Tensor:
    """y [N, C, ...] in the dtype of `like`, and in one piece: channels last where `like` has them last."""
    y = y.to(like.dtype)
    if y.shape == like.shape and y.stride() == like.stride():
        return y
    if like.stride(1) == 1 and like.shape[1] > 1:  # by strides: vmap has no memory formats
        return y.movedim(1, -1).contiguous().movedim(-1, 1)
    return y.contiguous()


def mix_channels(matrix: Tensor, x: Tensor) -> Tensor:
    """matrix [C, C] times the channels of x [N, C, *S], in the layout of x."""
    if channels_last(x):
        return torch.nn.functional.linear(x.movedim(1, -1), matrix).movedim(-1, 1)
    return (matrix @ x.flatten(2)).reshape(x.shape)


def channel_rows(x: Tensor) -> Tensor:
    """x [N, C, *S] as [N·L, C], one row for each position."""
    return x.movedim(1, -1).reshape(-1, x.shape[1])


def totals(group: dist.ProcessGroup | None, *sums: Tensor) -> list[Tensor]:
    """Sums of any shape, over the processes of the group; one collective for all of them."""
    if group is None:
        return list(sums)
    joined = gather_rows(torch.cat([part.reshape(1, -1) for part in sums], 1), group).sum(0)
    parts = joined.split([part.numel() for part in sums])
    return [whole.reshape(part.shape) for whole, part in zip(parts, sums, strict=True)]
