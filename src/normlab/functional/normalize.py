"""From activations to instance moments, and from (scale, shift) to activations: the only two places that read them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from normlab.errors import SpecError, UnknownName
from normlab.functional import backends
from normlab.functional.backends import eager
from normlab.functional.moments import Moments
from normlab.functional.nodes import InstanceMoments, Link, ScaleShift, grid

Activation = Literal["relu"]
AffineMap = Callable[[Moments], tuple[Tensor, Tensor]]


def normalize(
    x: Tensor,
    affine: AffineMap,
    *,
    activation: Activation | None = None,
    floor: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """y = act(scale·x + shift + residual), where (scale, shift) = affine(moments of x over *S).

    Two passes over x in the forward direction and two in the backward one, whatever `affine` does: it is ordinary
    torch on [N, C], and autograd takes care of it. The first pass is left out if `affine` never looks at the moments.

    Args:
        x: [N, C, *S]; floating point.
        affine: gets the instance moments, mean and biased variance [N, C], in float32 or wider; gives scale and shift,
            each [N, C] or what broadcasts to it.
        activation: "relu" in the same pass.
        floor: [C] or what broadcasts to [N, C]: y is nowhere below it, as in a thresholded linear unit.
        residual: of the shape of x, added before the activation.

    Returns:
        y of the shape, dtype and layout of x.

    Raises:
        SpecError: an input of other shape or type than said.
    """
    check_input(x, residual)
    backend, choice = backends.select(x)
    link = Link()
    moments = InstanceMoments(x, backend, link)
    with full_precision(x):
        found = affine(moments)
    backends.note(choice)  # only now: there may be a norm inside `affine`
    if len(found) != 2:
        raise SpecError(f"affine should give (scale, shift); got {len(found)} values")
    scale, shift = (check_vector(v, name, x) for v, name in zip(found, ("scale", "shift"), strict=True))
    low = floor_of(activation, None if floor is None else check_vector(floor, "floor", x), scale)
    if backend is eager:
        return eager.scale_shift(x, scale, shift, low, residual)
    center, token = moments.taken()
    vectors = (grid(v, x) for v in (scale, shift, low))
    return ScaleShift.apply(x if token is None else x.detach(), token, center, *vectors, residual, backend, link)


def check_input(x: Tensor, residual: Tensor | None = None) -> None:
    """Refuse what is not [N, C, *S] of floating point numbers, and a residual that does not fit."""
    if not x.is_floating_point():
        raise SpecError(f"normalization takes floating point numbers; got {x.dtype}. Convert first: x.float()")
    if x.dim() < 2:
        raise SpecError(f"normalization takes [N, C, *S]; got {list(x.shape)}. One example needs a batch: x[None]")
    if x.numel() == 0:
        raise SpecError(f"there is nothing to normalize in an input {list(x.shape)}: skip empty batches")
    if residual is not None and (residual.shape != x.shape or residual.dtype != x.dtype):
        raise SpecError(
            f"the residual should be as x, {list(x.shape)} of {x.dtype}; got {list(residual.shape)} of {residual.dtype}"
        )


def check_vector(vector: Tensor, name: str, x: Tensor) -> Tensor:
    """Refuse what does not broadcast to [N, C] of x; else it with two dimensions."""
    n, c = x.shape[:2]
    if not isinstance(vector, Tensor) or not vector.is_floating_point():  # pyright: ignore[reportUnnecessaryIsInstance]
        got = vector.dtype if isinstance(vector, Tensor) else type(vector).__name__  # pyright: ignore
        raise SpecError(f"{name} should be a tensor of floating point numbers, [{n}, {c}]; got {got}")
    if vector.dim() < 2:
        vector = vector.expand(1, *vector.shape) if vector.dim() else vector.expand(1, 1)
    rows, columns = vector.shape if vector.dim() == 2 else (0, 0)
    # not `in (1, n)`, which torch.compile takes for False where n is a symbol
    if not ((rows == 1 or rows == n) and (columns == 1 or columns == c)):  # noqa: PLR1714
        raise SpecError(f"{name} should be [{n}, {c}] or broadcast to it, [{c}] say; got {list(vector.shape)}")
    return vector


def floor_of(activation: Activation | None, floor: Tensor | None, like: Tensor) -> Tensor | None:
    """What y may not fall below: 0 for relu; None where there is no bound."""
    if activation is None:
        return floor
    if activation != "relu":
        raise UnknownName("activation", activation, get_args(Activation))
    if floor is not None:
        raise SpecError("activation='relu' is a floor of 0; give one or the other")
    return like.new_zeros(1, 1)


def full_precision(x: Tensor) -> AbstractContextManager[Any]:
    """No autocast, which would run the algebra's matrix products in half precision."""
    device = x.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()
