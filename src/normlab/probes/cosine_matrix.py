"""The Gram matrix of a batch: how alike its examples are to a layer."""

from __future__ import annotations

import torch
from torch import Tensor

from normlab.probes.base import wide


def cosine_matrix(x: Tensor) -> Tensor:
    """K = F Fᵀ, where the rows of F are the examples, flattened and divided by their 2-norms.

    An example that is 0 everywhere has cosine 0 with all, itself included, where the authors' code has NaN.

    Args:
        x: [N, ...].

    Returns:
        [N, N] in float32 or wider.

    Source: Lubana et al., arXiv:2106.05956, and their code.
    """
    gram = gram_matrix(x)
    norms = gram.diagonal().sqrt()
    rnorms = torch.where(norms == 0, 0, 1 / norms)
    return gram * rnorms[:, None] * rnorms


def gram_matrix(x: Tensor) -> Tensor:
    """X Xᵀ / s² of the flattened examples, [N, N], where s is the largest |x|: large and small values survive squaring.

    Memory formats are taken as they are: all examples are flattened in the order in which they lie.
    """
    order = sorted(range(1, x.dim()), key=lambda dim: -x.stride(dim))
    rows = wide(x.permute(0, *order).reshape(len(x), -1))
    largest = torch.linalg.vector_norm(rows, float("inf")) if rows.numel() else rows.new_zeros(())
    rows = rows / torch.where(largest == 0, 1, largest)
    return rows @ rows.T
