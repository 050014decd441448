"""The ReLU that goes with weight normalization: standard normal in, mean 0 and variance 1 out."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

MEAN = 1 / math.sqrt(2 * math.pi)  # of relu(x) for x ~ N(0, 1)
STD = math.sqrt((math.pi - 1) / (2 * math.pi))


def scaled_relu(x: Tensor) -> Tensor:
    """√(2π / (π - 1)) (relu(x) - 1 / √(2π)), of any shape: mean 0, variance 1 for x ~ N(0, 1).

    Source: Arpit et al., arXiv:1603.01431, sec. 3.
    """
    return (torch.relu(x) - MEAN) * (1 / STD)


class ScaledReLU(nn.Module):
    """`scaled_relu` as a module; it has no arguments and no state."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to x of any shape."""
        return scaled_relu(x)
