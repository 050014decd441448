"""Sparsemax and SparsestMax: projections onto the simplex whose results have zeros."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Centre = Literal["edge", "simplex"]


def sparsemax(z: Tensor) -> Tensor:
    """The point of the simplex nearest to z, on the last dimension: max(z - t, 0) with t such that the sum is 1.

    Source: Martins and Astudillo, arXiv:1602.02068.
    """
    ordered = z.sort(-1, descending=True).values
    sizes = torch.arange(1, z.shape[-1] + 1, device=z.device, dtype=z.dtype)
    thresholds = (ordered.cumsum(-1) - 1) / sizes
    last = (ordered > thresholds).sum(-1, keepdim=True) - 1
    return (z - thresholds.gather(-1, last)).clamp(min=0)


def sparsestmax(z: Tensor, radius: Tensor | float, *, centre: Centre = "edge") -> Tensor:
    """The point of the simplex nearest to z among those at least `radius` away from its centre.

    At radius 0 this is sparsemax; for three entries it has a zero at most from radius 0.408, and is one-hot from 0.817.
    Where z is as far from every side, as it is when all entries are equal, the first entry is preferred, and the
    gradient is 0.

    Args:
        z: [..., K].
        radius: between 0 and 1.
        centre: where sparsemax(z) lies on a side of the simplex, distances are from the middle of that "edge", as in
            the authors' code, or from the centre of the "simplex", as in their definition.

    Source: Shao et al., arXiv:1903.03793, sec. 3.2 and their code, whose results are not finite or do not add up to 1
        near vertices and ties; here they do.
    """
    tiny = 16 * torch.finfo(z.dtype).eps
    entries = z.shape[-1]
    u_before = torch.full_like(z, 1 / entries)
    r = torch.as_tensor(radius, dtype=z.dtype, device=z.device).expand(*z.shape[:-1], 1)
    p, done = z, torch.zeros_like(r, dtype=torch.bool)
    for level in range(entries - 1):  # each level has one entry less to share
        w = sparsemax(p)
        support = (w > tiny).to(z.dtype)
        size = support.sum(-1, keepdim=True)
        u = support / size
        if level > 0 or centre == "simplex":
            r = (r.square() - (u - u_before).square().sum(-1, keepdim=True)).clamp(min=0).sqrt()
        moved, distance = _push(w, u, r, support, tiny)
        alone = size == 1
        stay = alone | (distance >= r - tiny)
        p = torch.where(done, p, torch.where(alone, support, torch.where(stay, w, moved)))
        done = done | stay | (moved >= -tiny).all(-1, keepdim=True)
        u_before = u
    return torch.where(done, p.clamp(0, 1), sparsemax(p))


def _push(w: Tensor, u: Tensor, r: Tensor, support: Tensor, tiny: float) -> tuple[Tensor, Tensor]:
    """w, moved away from u to distance r, and how far it was; from u itself towards the first entry of the support."""
    away = w - u
    # it sums to 0 but for rounding, which near a tie is not small against it
    away = away - support * (away.sum(-1, keepdim=True) / support.sum(-1, keepdim=True))
    distance = torch.linalg.vector_norm(away.detach(), dim=-1, keepdim=True)
    tie = distance <= tiny
    first = support * (support.cumsum(-1) == 1) - u
    direction = torch.where(tie, first, away)
    return u + r * torch.nn.functional.normalize(direction, dim=-1, eps=tiny), distance
