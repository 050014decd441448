"""What all layers share: the registry and the door to it, parameters that can be put back, checks, and `affine`."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from normlab import functional as F
from normlab.errors import SpecError, UnknownName
from normlab.functional import Moments
from normlab.functional.backends import stats_dtype
from normlab.functional.normalize import Activation
from normlab.registry import Registry, parse

NORMS: Registry[nn.Module] = Registry("norm")
CONVS: Registry[nn.Module] = Registry("convolution")

Initial = float | Callable[[Tensor], Any]


class Options(TypedDict, total=False):
    """Arguments that every layer takes.

    eps: added to a variance before the root is taken. affine: has a weight, and a bias unless `bias` is False.
    activation: "relu" in the same pass as the last multiplication.
    """

    eps: float
    affine: bool
    bias: bool
    activation: Activation | None
    device: torch.device | str | None
    dtype: torch.dtype | None


class Layer(nn.Module, ABC):
    """A normalizer of activations [N, C] to [N, C, D, H, W].

    Parameters and buffers are added with their initial values, so that `reset_parameters` can put all of them back,
    after `to_empty` as well. Buffers of floating point stay float32 or wider when the layer is made half: a running
    mean in bfloat16 stops moving.

    Args:
        num_features: C, the number of channels.
        scale: initial value of the weight.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    activation: Activation | None
    _call: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Remember the call, which is what `extra_repr` shows."""
        layer = super().__new__(cls)
        object.__setattr__(layer, "_call", (args, kwargs))
        return layer

    def __init__(
        self,
        num_features: int,
        *,
        eps: float = 1e-5,
        affine: bool = True,
        bias: bool = True,
        activation: Activation | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        if num_features < 1:
            raise SpecError(f"num_features={num_features} should be a number of channels, 1 or more")
        if activation not in (None, "relu"):
            raise SpecError(f"activation={activation!r} should be 'relu' or None")
        if eps < 0:
            raise SpecError(f"eps={eps} should not be negative")
        self.num_features, self.eps, self.affine, self.activation = num_features, eps, affine, activation
        self._initial: dict[str, Initial] = {}
        self._factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.add_parameter("weight", (num_features,), scale, present=affine)
        self.add_parameter("bias", (num_features,), 0.0, present=affine and bias)

    def add_parameter(self, name: str, shape: tuple[int, ...], initial: Initial, *, present: bool = True) -> None:
        """A parameter and its initial value: a number, or a function that fills it in place."""
        value = nn.Parameter(torch.empty(shape, **self._factory)) if present else None
        self.register_parameter(name, value)
        self._start(name, initial)

    def add_buffer(self, name: str, shape: tuple[int, ...], initial: Initial, *, present: bool = True) -> None:
        """A buffer in float32 or wider, and its initial value."""
        dtype = stats_dtype(self._factory["dtype"] or torch.get_default_dtype())
        value = torch.empty(shape, device=self._factory["device"], dtype=dtype) if present else None
        self.register_buffer(name, value)
        self._start(name, initial)

    def _start(self, name: str, initial: Initial) -> None:
        value = getattr(self, name)
        if value is not None:
            self._initial[name] = initial
            _fill(value, initial)

    def reset_parameters(self) -> None:
        """Put parameters and buffers back to what a new layer has; after `to_empty`, say."""
        for name, initial in self._initial.items():
            _fill(getattr(self, name), initial)
        for child in self.children():
            _reset(child)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # pyright: ignore[reportUnknownMemberType]
        for name, old in before.items():
            new = self._buffers[name]
            if old is not None and new is not None and new.dtype in (torch.float16, torch.bfloat16):
                self._buffers[name] = old.to(new.device)  # as it was: rounding and back would lose digits
        return self

    def check(self, x: Tensor) -> None:
        """Refuse an input that is not [N, num_features, ...] with at most three more dimensions."""
        c, name = self.num_features, type(self).__name__
        if not 2 <= x.dim() <= 5:
            raise SpecError(
                f"{name}({c}) takes [N, {c}] to [N, {c}, D, H, W]; got {x.dim()} dimensions, {list(x.shape)}. "
                "A single example needs a batch dimension: x[None]."
            )
        if x.shape[1] != c:
            raise SpecError(
                f"{name}({c}) takes {c} channels in dimension 1; got {x.shape[1]}, input {list(x.shape)}. "
                f"Use num_features={x.shape[1]}, or move the channels: x.movedim(-1, 1)."
            )
        if x.numel() == 0:
            raise SpecError(f"{name}({c}) got no values: input {list(x.shape)}. Skip empty batches before the layer.")
        if not x.is_floating_point():
            raise SpecError(f"{name} takes floating point numbers; got {x.dtype}. Convert first: x.float()")

    def extra_repr(self) -> str:
        """The constructor's arguments that are not defaults, so that the repr evaluates to a layer like this."""
        args, kwargs = self._call
        signature = inspect.signature(type(self))
        given = dict(signature.bind_partial(*args, **kwargs).arguments)
        options = next((k for k, p in signature.parameters.items() if p.kind is p.VAR_KEYWORD), "")
        given |= given.pop(options, {})
        parts = [str(self.num_features)]
        for name, value in given.items():
            now = self.__dict__.get(name, value)
            parameter = signature.parameters.get(name)
            if name not in ("num_features", "device", "dtype") and (parameter is None or now != parameter.default):
                parts.append(f"{name}={now!r}")
        return ", ".join(parts)


class Norm(Layer):
    """A layer that is scale·x + shift, with scale and shift from the instance moments."""

    @abstractmethod
    def affine_map(self, m: Moments) -> tuple[Tensor, Tensor]:
        """(scale, shift) from the instance moments [N, C]."""

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Normalize x [N, C, *S]; with a residual, add it before the activation."""
        self.check(x)
        return F.normalize(x, self.affine_map, activation=self.activation, residual=residual)


class MixNorm(Norm):
    """A norm that standardizes by some mixture of the instance moments."""

    @abstractmethod
    def mix(self, m: Moments) -> Moments:
        """The moments to standardize by, from the instance moments [N, C]."""

    def affine_map(self, m: Moments) -> tuple[Tensor, Tensor]:
        """weight · (x - mean) / √(var + eps) + bias."""
        return F.standardize(self.mix(m), self.weight, self.bias, self.eps)


def create(spec: str, **arguments: Any) -> nn.Module:
    """Build a layer: `create("batch(scale=0.1)", num_features=64)`.

    Args:
        spec: a registered name, or `name(key=value, ...)`.
        arguments: what the layer needs besides: `num_features`, the number of channels, for a norm; `in_channels`,
            `out_channels`, `kernel_size` for a convolution; and any others, such as device and dtype.

    Raises:
        UnknownName: no such layer, or it takes no such argument.
    """
    name = parse(spec, kind="norm").name
    if name not in NORMS and name not in CONVS:
        raise UnknownName("norm", name, [*NORMS, *CONVS])
    return (NORMS if name in NORMS else CONVS).create(spec, **arguments)


def _reset(module: nn.Module) -> None:
    """Put back what a module has; a container has only what its parts have."""
    reset = getattr(module, "reset_parameters", None)
    if reset is not None:
        reset()
        return
    for child in module.children():
        _reset(child)


def _fill(value: Tensor, initial: Initial) -> None:
    with torch.no_grad():
        if callable(initial):
            initial(value)
        else:
            value.fill_(initial)
