"""Networks for the tests of recipes."""

from __future__ import annotations

import torch
from torch import nn

from normlab.study.models import ResNet


def resnet18(classes: int = 10) -> ResNet:
    """The paper's network for CIFAR."""
    return ResNet(3, classes, blocks=(2, 2, 2, 2), width=64)


def conv_net(*, depth: int = 2, channels: int = 4) -> nn.Sequential:
    """`depth` times convolution, BatchNorm, ReLU; then a linear layer called `head`."""
    net = nn.Sequential()
    for i in range(depth):
        net.add_module(f"conv{i}", nn.Conv2d(channels if i else 3, channels, 3, padding=1))
        net.add_module(f"bn{i}", nn.BatchNorm2d(channels))
        net.add_module(f"relu{i}", nn.ReLU())
    net.add_module("pool", nn.AdaptiveAvgPool2d(1))
    net.add_module("flat", nn.Flatten())
    net.add_module("head", nn.Linear(channels, 5))
    return net


class Odd(nn.Module):
    """Everything that makes a rule by name and shape go wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)
        self.bn = nn.BatchNorm2d(1)
        self.prelu = nn.PReLU()
        self.ln = nn.LayerNorm(6)
        self.gn = nn.GroupNorm(2, 6)
        self.rms = nn.RMSNorm(6)
        self.emb = nn.Embedding(1, 6)
        self.attention = nn.MultiheadAttention(6, 2, add_bias_kv=True)
        self.rnn = nn.GRU(6, 6)
        self.spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6))
        self.head = nn.Linear(6, 1)
        self.tied = nn.Linear(6, 1, bias=False)
        self.tied.weight = self.emb.weight
        self.layer_scale = nn.Parameter(torch.full((6,), 1e-5))
        self.class_token = nn.Parameter(torch.zeros(1, 1, 6))
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
