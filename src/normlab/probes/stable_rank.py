"""Stable rank: how many directions the examples of a batch point to."""

from __future__ import annotations

import torch
from torch import Tensor

from normlab.probes.base import PROBES, Probe, undefined
from normlab.probes.cosine_matrix import cosine_matrix, gram_matrix


def stable_rank(x: Tensor, *, normalize_rows: bool = True) -> Tensor:
    """|F|²_F / |F|²₂ = tr K / λ_max(K), where the rows of F are the flattened examples and K = F Fᵀ.

    Args:
        x: activations [N, ...], after the nonlinearity where it is to count.
        normalize_rows: each example is divided by its 2-norm first, as the authors do, so that tr K = N; examples that
            are 0 everywhere count for nothing. False: |X|²_F / |X|²₂ of the matrix as it is.

    Returns:
        [], from 1, all examples alike up to a factor, to N; 0 if all of x is 0.

    Source: Lubana et al., arXiv:2106.05956, and their code.
    """
    return _rank(cosine_matrix(x) if normalize_rows else gram_matrix(x))


def _rank(k: Tensor) -> Tensor:
    """tr K / λ_max(K)."""
    # a small matrix, which the CPU decomposes fastest, and every CPU has float64
    wide = k.to("cpu", torch.float64)
    if not len(k) or not bool(wide.isfinite().all()):
        return undefined(k)
    largest = torch.linalg.eigvalsh(wide)[-1]
    return torch.where(largest > 0, wide.trace() / largest, 0).to(k)


@PROBES.register("stable_rank")
def stable_rank_probe() -> Probe:
    """`stable_rank` of what leaves the layer."""
    return Probe("stable_rank", "cosines", lambda _, cosines: _rank(cosines))
