"""Batch normalization of a network's raw input."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd  # pyright: ignore[reportPrivateUsage]

from normlab.errors import SpecError
from normlab.layers.batch import BatchNorm

SIGMA_RELU_PAPER = 0.58
"""Standard deviation of relu(z), z ~ N(0, 1), as the paper and its code round it: what published numbers rest on."""
SIGMA_RELU = math.sqrt((1 - 1 / math.pi) / 2)
"""The same unrounded, 0.583819."""


class InputNormalized(nn.Sequential):
    """A network behind a BatchNorm on its input channels; that layer has a scale and no shift.

    State-dict keys are those of the authors' checkpoints, `0.weight` and `1.conv1.weight`; theirs also hold
    `0.bias`, which is always 0.

    Source: Davis and Frank, arXiv:2110.13989, sec. 3.3.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Normalize x [N, C, *S] and pass it on, with the other arguments as they are.

        Raises:
            SpecError: an input of other channels than those told, or no floating-point tensor: a list of images, say.
        """
        norm, model = self
        _check_input(norm, x)
        return model(norm(x), *args, **kwargs)

    def unwrap(self) -> nn.Module:
        """The network without its input normalization."""
        return self[1]


def normalize_input(model: nn.Module, channels: int, *, scale: float, trained: bool = True) -> InputNormalized:
    """Put a BatchNorm with initial weight `scale` before the model, on the model's device and in its dtype."""
    like = next((p for p in model.parameters() if torch.is_floating_point(p)), torch.empty(0))
    norm = BatchNorm(channels, device=like.device, dtype=like.dtype, scale=scale, bias=False).requires_grad_(trained)
    return InputNormalized(norm, model).train(model.training)


def input_channels(model: nn.Module) -> int:
    """Input channels of the first convolution or fully connected layer, in the order of `model.modules()`.

    Raises:
        SpecError: there is no such layer, or an embedding comes before it: its input are indices, not channels.
    """
    for module in model.modules():
        if isinstance(module, _ConvNd):
            return module.in_channels
        if isinstance(module, nn.Linear):
            return module.in_features
        if isinstance(module, nn.RNNBase):
            raise SpecError(
                f"{type(model).__name__} seems to begin with a {type(module).__name__}, whose input has its features "
                "last, [N, L, C], where the normalization of the input wants [N, C, L]: use input_norm=False"
            )
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            raise SpecError(
                f"{type(model).__name__} seems to begin with an embedding, whose indices cannot be normalized: "
                "use input_norm=False, or pass in_channels"
            )
    raise SpecError(
        f"{type(model).__name__} has no convolution or fully connected layer to tell its input channels: "
        "pass in_channels, or use input_norm=False"
    )


def _check_input(norm: nn.Module, x: Any) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        came = f"{x.dtype} tensor" if isinstance(x, Tensor) else type(x).__name__
        raise SpecError(f"an input normalization takes a tensor of floating point, got {came}: use input_norm=False")
    channels = getattr(norm, "num_features", x.shape[1:2].numel())
    if x.dim() > 1 and x.shape[1] != channels:
        raise SpecError(
            f"the input normalization was made for {channels} channels, those of the first convolution or fully "
            f"connected layer, and the input {list(x.shape)} has {x.shape[1]}: prepare(model, in_channels={x.shape[1]})"
        )
