"""Networks for the tests of recipes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from normlab.errors import Unavailable
from normlab.study.models import ResNet, import_timm


def resnet18(classes: int = 10) -> ResNet:
    """The paper's network for CIFAR."""
    return ResNet(3, classes, blocks=(2, 2, 2, 2), width=64)


def timm_model(name: str, **arguments: Any) -> nn.Module:
    """A network of timm's with random weights; the test is skipped where timm is not installed."""
    try:
        return import_timm().create_model(name, **arguments)
    except Unavailable as error:
        pytest.skip(str(error))


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


class SmallViT(nn.Module):
    """Patches, a class token, pre-norm encoder layers of torch's: [N, 3, 8, 8] -> [N, 5]."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, 5, width))
        layer = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.1, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(x).flatten(2).mT
        tokens = torch.cat([self.class_token.expand(len(x), -1, -1), tokens], 1) + self.positions
        return self.head(self.norm(self.blocks(tokens))[:, 0])


class GPTBlock(nn.Module):
    """Attention behind an RMSNorm, a feed-forward network behind a LayerNorm: [N, T, width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.RMSNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, bias=False, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm1(x)
        mask = torch.triu(torch.ones(x.shape[1], x.shape[1], dtype=torch.bool), 1)
        x = x + self.attention(y, y, y, attn_mask=mask, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class SmallGPT(nn.Module):
    """Two blocks between an embedding and a head that share their weight: [N, T] int64 -> [N, T, words]."""

    def __init__(self, words: int = 11, width: int = 8) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.blocks = nn.Sequential(GPTBlock(width), GPTBlock(width))
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, words, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.blocks(self.embed(words))))
