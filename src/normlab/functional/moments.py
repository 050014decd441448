"""Moments and their algebra on [N, C]: pooling, blending, and the step from moments to an affine map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from normlab.functional.collective import gather_rows


class Moments:
    """Mean and biased variance of sets of values.

    Args:
        mean: [N, C], or what broadcasts to it: [1, C] for sets that span the batch, [N, 1] for all channels.
        var: as `mean`; divided by the number of values, not by one less.
        count: values in each set; a number, or a tensor where processes hold parts of unequal size.
    """

    __slots__ = ("count", "mean", "var")

    def __init__(self, mean: Tensor, var: Tensor, count: int | Tensor) -> None:
        self.mean = mean
        self.var = var
        self.count = count

    @property
    def shape(self) -> torch.Size:
        """[N, C], or what broadcasts to it."""
        return self.mean.shape

    @property
    def size(self) -> torch.Size:
        """Shape of the tensor whose moments they are, as far as it is known."""
        return self.mean.shape

    def detach(self) -> Moments:
        """The same numbers, not differentiated."""
        return Moments(self.mean.detach(), self.var.detach(), self.count)


def unbiased(m: Moments, ddof: int = 1) -> Tensor:
    """The variance divided by count - ddof: var · count / (count - ddof)."""
    return m.var * (m.count / (m.count - ddof)) if ddof else m.var


def pool(m: Moments, dim: int) -> Moments:
    """Moments of the sets along `dim` together; the dimension stays, with size 1.

    By the law of total variance, never E[x²] - E[x]², which loses everything where the mean is large.
    """
    if m.mean.shape[dim] == 1:
        return m
    mean = m.mean.mean(dim, keepdim=True)
    off = m.mean - mean
    return Moments(mean, torch.addcmul(m.var, off, off).mean(dim, keepdim=True), m.count * m.mean.shape[dim])


def pool_batch(m: Moments, group: ProcessGroup | None = None) -> Moments:
    """Moments of each channel over all examples: [N, C] → [1, C].

    Args:
        group: pool over the processes of this group as well, each with as many examples as it has; one collective
            here and one in the backward pass.
    """
    here = pool(m, 0)
    if group is None:
        return here
    c = here.mean.shape[1]
    size = torch.ones_like(here.mean[:, :1]) * here.count
    parts = gather_rows(torch.cat([size, here.mean, here.var], 1), group)  # [processes, 1 + 2C]
    sizes, means, variances = parts.split([1, c, c], 1)
    share = sizes / sizes.sum()
    pooled = (share * means).sum(0, keepdim=True)
    spread = (share * (variances + (means - pooled).square())).sum(0, keepdim=True)
    return Moments(pooled, spread, sizes.sum())


def pool_channels(m: Moments) -> Moments:
    """Moments of each example over all its channels: [N, C] → [N, 1]."""
    return pool(m, 1)


def pool_groups(m: Moments, num_groups: int) -> Moments:
    """Moments over groups of neighbouring channels: [N, C] → [N, C], equal within a group."""
    n, c = m.mean.shape
    wide = (n, num_groups, c // num_groups)
    pooled = pool(Moments(m.mean.reshape(wide), m.var.reshape(wide), m.count), 2)
    return Moments(pooled.mean.expand(wide).reshape(n, c), pooled.var.expand(wide).reshape(n, c), pooled.count)


def pool_by(m: Moments, rows: Tensor | None, columns: Tensor | None) -> Moments:
    """Moments over arbitrary sets of examples and channels, as in Meta Normalization: [N, C] → [N, C].

    Args:
        rows: [N, N], row n has ones where an example belongs to the pool of example n; None for the example alone.
        columns: [C, C], column c has ones where a channel belongs to the pool of channel c; None for itself alone.

    Source: slides of W. Shao; with the variance of the means, which the slide's formula leaves out.
    """
    # second moments, so in float64 and around a common centre: pools may lie far from 0 and from each other
    centre = m.mean.detach().double().mean()
    off = m.mean.double() - centre
    mean = _average(off, rows, columns)
    second = _average(m.var.double() + off.square(), rows, columns)
    count = m.count
    if rows is not None:
        count = count * rows.sum(1, keepdim=True)
    if columns is not None:
        count = count * columns.sum(0, keepdim=True)
    var = (second - mean.square()).clamp(min=0)
    return Moments((mean + centre).to(m.mean.dtype), var.to(m.var.dtype), count)


def _average(values: Tensor, rows: Tensor | None, columns: Tensor | None) -> Tensor:
    if rows is not None:
        values = (rows.to(values.dtype) / rows.sum(1, keepdim=True)) @ values
    if columns is not None:
        values = values @ (columns.to(values.dtype) / columns.sum(0, keepdim=True))
    return values


def blend(parts: Sequence[Moments], mean_weights: Tensor, var_weights: Tensor) -> Moments:
    """Weighted sums of means and of variances, as in Switchable Normalization.

    Args:
        parts: k moments.
        mean_weights: [k], var_weights: [k].
    """
    first, *others = zip(parts, mean_weights.unbind(), var_weights.unbind(), strict=True)
    mean, var = first[0].mean * first[1], first[0].var * first[2]
    for part, p, q in others:
        mean, var = torch.addcmul(mean, part.mean, p), torch.addcmul(var, part.var, q)
    return Moments(mean, var, parts[0].count)


def standardize(m: Moments, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """(scale, shift) with scale·x + shift = weight · (x - mean) / √(var + eps) + bias; weight and bias are [C]."""
    scale = torch.rsqrt(m.var + eps)
    if weight is not None:
        scale = scale * weight.to(scale.dtype)
    if bias is None:
        return scale, -m.mean * scale
    return scale, torch.addcmul(bias.to(scale.dtype), m.mean, scale, value=-1)
