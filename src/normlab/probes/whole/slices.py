"""Slices of the loss around the weights, along random directions of the size of the filters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normlab.errors import SpecError, require
from normlab.probes.whole.calls import as_number
from normlab.probes.whole.surface import Loss, surface
from normlab.seeding import Streams


@dataclass(frozen=True)
class LossSlice:
    """The loss at w + a d, or at w + a d + b e.

    Args:
        at: a, and b: from -radius to radius; 1 is as long as the weights themselves, filter by filter.
        losses: [points], or [points, points], a by row and b by column; float64.

    Source: Li et al., arXiv:1712.09913, sec. 4.
    """

    at: tuple[float, ...]
    losses: Tensor


def loss_slice(
    model: nn.Module,
    loss: Loss,
    *,
    dimensions: int = 1,
    radius: float = 1.0,
    points: int = 21,
    seed: int = 0,
    training: bool = False,
) -> LossSlice:
    """Evaluate the loss on a line or a square around the weights, on one batch.

    Directions are Gaussian; each filter (row of a weight) of one is scaled to the norm of the model's own. Parameters
    of one dimension, that is biases and the γ and β of norms, stay, as in the paper.

    Args:
        loss: computes the loss on a fixed batch: `lambda: cross_entropy(model(x), y)`.
        points: in each dimension; odd, so that w itself is among them.
        seed: of the directions, which belong to the names of the parameters.
        training: norms use the batch; False for eval mode.

    Raises:
        SpecError: see `surface`; numbers that make no slice; a model without matrices.
    """
    odd = isinstance(points, int) and points >= 3 and points % 2 == 1  # pyright: ignore[reportUnnecessaryIsInstance]
    require(seed, int, "seed is an integer")
    if dimensions not in (1, 2) or not odd or not 0 < as_number(radius) < float("inf"):
        raise SpecError(
            f"dimensions={dimensions}, points={points}, radius={radius} should be 1 or 2, an odd number from 3 on, and "
            "a number above 0"
        )
    with surface(model, loss, training=training) as around:
        directions = [_direction(around.start, Streams(seed), number) for number in range(dimensions)]
        if not directions[0]:
            raise SpecError(f"{type(model).__name__} trains no parameter of two dimensions or more")
        at = torch.linspace(-radius, radius, points, dtype=torch.float64)
        at[points // 2] = 0  # which linspace misses by a rounding
        losses = torch.empty((points,) * dimensions, dtype=torch.float64)
        for place in torch.cartesian_prod(*[torch.arange(points)] * dimensions).reshape(-1, dimensions).tolist():
            shares = [float(at[i]) for i in place]
            step = {n: sum(s * d[n] for s, d in zip(shares, directions, strict=True)) for n in directions[0]}
            around.move({name: torch.as_tensor(value) for name, value in step.items()}, 1.0)
            losses[tuple(place)] = around.loss()
    return LossSlice(tuple(at.tolist()), losses)


def _direction(start: dict[str, Tensor], streams: Streams, number: int) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, weight in start.items():
        if weight.dim() > 1:
            noise = torch.randn(weight.shape, generator=streams.torch("probe", "slice", number, name)).to(weight)
            own, drawn = (value.flatten(1).norm(dim=1) for value in (weight, noise))
            found[name] = noise * (own / drawn).reshape(-1, *[1] * (weight.dim() - 1))
    return found
