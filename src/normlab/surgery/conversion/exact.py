"""Do two layers compute the same in eval mode? Found out by trying."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from normlab.layers import Layer
from normlab.surgery.conversion.adapt import tail
from normlab.surgery.conversion.carry import named_tensors
from normlab.surgery.sites import norm_type


def same_at_eval(old: nn.Module, new: nn.Module, width: int) -> tuple[bool | None, str]:
    """Does `new` give what `old` gives in eval mode, what follows the norm apart?

    Scales and running statistics are random numbers for the trial, the same on both sides, since much is alike where
    a scale is 0 or nothing has been learned. Neither layer is changed, and no hook of theirs is called.

    Returns:
        (True, "") to the last bit, (True, "up to rounding"), (False, ""), or (None, why) if it cannot be tried.
    """
    like = next((value for value in named_tensors(old).values() if value.is_floating_point()), torch.zeros(()))
    if like.is_meta:
        return None, "on the meta device nothing can be tried"
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(_shape(old, new, width), generator=generator).to(like)
    random = {
        "weight": 0.5 + torch.rand(width, generator=generator),
        "running_mean": torch.randn(width, generator=generator),
        "running_var": 0.5 + torch.rand(width, generator=generator),
    }
    values = {name: value.bfloat16().float() for name, value in random.items()}  # the same number in every dtype
    try:
        before, after = _output(old, x, values), _output(new, x, values)
    except Exception as error:
        return None, f"{type(error).__name__} when tried on {list(x.shape)}"
    if torch.equal(before, after):
        return True, ""
    few = 16 * torch.finfo(torch.float32).eps if like.dtype.itemsize > 2 else 2 * torch.finfo(like.dtype).eps
    close = before.shape == after.shape and torch.allclose(before, after, rtol=few, atol=few)
    return close, "up to rounding" if close else ""


def _shape(old: nn.Module, new: nn.Module, width: int) -> tuple[int, ...]:
    if isinstance(old, nn.Conv2d):
        kh, kw = old.kernel_size
        return 2, old.in_channels, kh + 2, kw + 1
    names = [cls.__name__ for module in (old, new) for cls in type(module).__mro__]
    if any(name.endswith("Norm3d") for name in names):
        return 2, width, 3, 2, 2
    return (4, width, 3) if any(name.endswith("Norm1d") for name in names) else (2, width, 3, 2)


@torch.no_grad()
def _output(module: nn.Module, x: Tensor, values: dict[str, Tensor]) -> Tensor:
    """[N, C, ...] from [N, C, ...], by a copy of the module in eval mode."""
    known = norm_type(module)
    names: dict[str, str] = {} if known is None else {known.weight: "weight"}
    twin = copy.copy(module)
    twin.training = False
    if isinstance(twin, Layer):
        twin.activation = None  # it follows the norm
    for slots in ("_parameters", "_buffers"):
        held: dict[str, Tensor | None] = vars(module)[slots]
        vars(twin)[slots] = {n: _trial(value, values.get(names.get(n, n))) for n, value in held.items()}
    after = tail(module)
    vars(twin)["_modules"] = {
        name: nn.Identity() if name in after else _asleep(part) for name, part in vars(module)["_modules"].items()
    }
    last = known is not None and known.features == "last"
    y = twin.forward(x.movedim(1, -1) if last else x)
    return y.movedim(-1, 1) if last else y


def _trial(value: Tensor | None, number: Tensor | None) -> Tensor | None:
    if value is None:
        return None
    return value.clone() if number is None or value.shape != number.shape else number.to(value)


def _asleep(part: nn.Module | None) -> nn.Module | None:
    return None if part is None else copy.deepcopy(part).eval()
