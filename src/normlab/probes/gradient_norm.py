"""Gradient norm by depth: does it explode or vanish on its way back?"""

from __future__ import annotations

import torch
from torch import Tensor

from normlab.functional.backends import stats_dtype
from normlab.probes.base import PROBES, Probe


def gradient_norm(gradient: Tensor) -> Tensor:
    """|∂L/∂x|, the Frobenius norm over the whole batch.

    With a loss that is the mean over the batch it falls as 1/√N, with the sum it grows as √N.

    Args:
        gradient: with respect to the output of a convolution, of any shape.

    Returns:
        [], in units of the loss by those of x.

    Source: Lubana et al., arXiv:2106.05956, and their code.
    """
    return torch.linalg.vector_norm(gradient.detach(), dtype=stats_dtype(gradient.dtype))


@PROBES.register("gradient_norm")
def gradient_norm_probe() -> Probe:
    """`gradient_norm` of what a norm gets, along every path of the network; or of what another layer gives.

    The norms of several gradients add up as √Σ |∂L/∂x|²: those of micro-batches and of repeated calls, and those of two
    backward passes through one forward pass, whose losses are taken for different ones.
    """
    return Probe("gradient_norm", "gradient", lambda _, gradient: gradient_norm(gradient), squares=True)
