"""What the tests of torch's promises try: the default of each norm, and of each convolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normlab.layers import CONVS
from tests.conformance.registry import DEFAULTS, Example
from tests.unit.layers import convolutions

WITH = {"noisy": {"mean_range": 0.5, "scale_range": 1.25, "spread": 0.1}, "whitening": {"alpha": 0.1}}
"""Where an oracle's first example, or the default, would not show a thing: no noise, or so little change."""


@dataclass(frozen=True)
class Norm:
    """A norm of the registry, with parameters that are not the initial ones."""

    example: Example

    def __str__(self) -> str:
        return self.example.name

    @property
    def channels(self) -> int:
        return self.example.channels

    @property
    def options(self) -> dict[str, Any]:
        return self.example.options

    def layer(self, **options: Any) -> Any:
        return self.example.layer(**WITH.get(str(self), {}) | options)

    def input(self, batch: int = 4, *size: int) -> Tensor:
        return torch.randn(batch, self.channels, *(size or (5, 7)))


@dataclass(frozen=True)
class Conv:
    """A convolution of the registry."""

    name: str

    def __str__(self) -> str:
        return self.name

    def layer(self, **options: Any) -> nn.Module:
        return convolutions.example(self.name, **options)

    def input(self, batch: int = 4) -> Tensor:
        return torch.randn(batch, 4, 7, 6)


NORMS = [Norm(example) for example in DEFAULTS]
LAYERS = [*NORMS, *(Conv(name) for name in CONVS)]
TRACKING = [norm for norm in NORMS if norm.layer().state_dict().get("num_batches_tracked") is not None]
"""Those with running statistics by default."""
BACKENDS = [None, "numba"]
"""What is chosen for inputs of this size, torch's kernels or eager; and our own passes."""


def buffers(layer: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in layer.named_buffers()}


def parameters(layer: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in layer.named_parameters()}


def gradients(layer: nn.Module, x: Tensor, *, up: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """y, and the gradients of x and of the parameters for a fixed gradient of y."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    torch.manual_seed(0)  # for layers that draw noise
    y = layer(x)
    up = torch.linspace(-1, 1, y.numel()).reshape(y.shape).to(y.dtype) if up is None else up
    inputs = {"x": x, **{name: p for name, p in layer.named_parameters() if p.requires_grad}}
    found = torch.autograd.grad(y, list(inputs.values()), up, allow_unused=True)
    return y.detach(), {name: g for name, g in zip(inputs, found, strict=True) if g is not None}


def by_backward(layer, x):
    """As `gradients`, by `backward`, which is all that reentrant checkpointing takes."""
    x = x.clone().requires_grad_()
    torch.manual_seed(0)
    y = layer(x)
    for _, parameter in layer.named_parameters():
        parameter.grad = None
    y.backward(torch.linspace(-1, 1, y.numel()).reshape(y.shape))
    found = {"x": x.grad, **{name: p.grad for name, p in layer.named_parameters()}}
    return y.detach(), {name: g for name, g in found.items() if g is not None}


def assert_all_close(actual: dict[str, Tensor], expected: dict[str, Tensor], rtol: float, atol: float) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            actual[name], value, rtol=rtol, atol=atol, check_stride=False, msg=lambda text, n=name: f"{n}: {text}"
        )
