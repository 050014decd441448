"""What SAM does to many tensors at once, wherever they are."""

# The foreach functions are torch's own way to write an optimizer, and have no public name.
# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false

from __future__ import annotations

import torch
from torch import Tensor

Copies = list[tuple[Tensor, Tensor]]
"""(tensor, a copy of what it was)."""


def add_(parameters: list[Tensor], directions: list[Tensor], scale: float | Tensor) -> None:
    """Parameters += scale · directions, in place."""
    if isinstance(scale, Tensor) and scale.device.type != "cpu":
        # its value would have to be waited for
        one = len({d.device for d in directions}) == 1
        moved = torch._foreach_mul(directions, scale) if one else [d * scale.to(d.device) for d in directions]
        directions, scale = list(moved), 1.0
    torch._foreach_add_(parameters, directions, alpha=float(scale))


def unscale_(gradients: list[Tensor], scale: Tensor) -> None:
    """Gradients /= scale, in place, as a GradScaler does it."""
    inverse = scale.double().reciprocal().float()
    for device in {gradient.device for gradient in gradients}:
        torch._foreach_mul_([g for g in gradients if g.device == device], inverse.to(device))


def copy(parameters: list[Tensor]) -> Copies:
    """Copies of the parameters; of sharded ones, of what is in this process."""
    held = [_local(p) for p in parameters]
    copies = [torch.empty_like(p) for p in held]
    torch._foreach_copy_(copies, held)
    return list(zip(held, copies, strict=True))


def put_back_(copies: Copies) -> None:
    """Every tensor as it was, bit for bit."""
    if copies:
        torch._foreach_copy_([held for held, _ in copies], [copied for _, copied in copies])


def _local(parameter: Tensor) -> Tensor:
    to_local = getattr(parameter, "to_local", None)
    return parameter if to_local is None else to_local()
