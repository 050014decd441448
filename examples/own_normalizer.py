"""A normalizer of your own in ten lines: a function from the moments of each example and channel to scale and shift.

`normlab.functional.normalize` reads the activations (twice forward, twice backward, in compiled loops where they are
large), and autograd takes care of what stands between. Here: each channel is centered by its own mean, as instance
norm does, and divided by one standard deviation for all channels of the example, as layer norm does.

    python examples/own_normalizer.py
"""

import torch
from torch import Tensor, nn

import normlab.functional as F


class OwnNorm(nn.Module):
    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(num_features)), nn.Parameter(torch.zeros(num_features))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        def affine(m: F.Moments) -> tuple[Tensor, Tensor]:  # m.mean and m.var are [N, C]
            mixed = F.Moments(m.mean, F.pool_channels(m).var, m.count)
            return F.standardize(mixed, self.weight, self.bias, self.eps)

        return F.normalize(x, affine, activation="relu")


if __name__ == "__main__":
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), OwnNorm(16), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    x = torch.randn(64, 3, 32, 32)
    network(x).square().mean().backward()
    print(f"gradient of the weight: {network[1].weight.grad.norm():.4f}")
    print(f"ran on {F.backend()}")
