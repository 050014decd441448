"""What all layers share: the registry and the door to it, parameters that can be put back, checks, and `affine`."""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypedDict, get_args, get_type_hints

import torch
from torch import Tensor, nn

from normlab import functional as F
from normlab.errors import SpecError, UnknownName
from normlab.functional import Moments
from normlab.functional.backends import stats_dtype
from normlab.functional.normalize import Activation, check_input
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
    _tail: tuple[str, ...] = ()  # children that `convert` has put after it

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
        if not isinstance(num_features, int) or num_features < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise SpecError(f"num_features={num_features} should be a number of channels, 1 or more")
        if activation not in (None, "relu"):
            raise SpecError(f"activation={activation!r} should be 'relu' or None")
        if not eps >= 0:  # NaN neither
            raise SpecError(f"eps={eps} should be a number, 0 or more")
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
        for name, new in self._buffers.items():
            old = before[name]
            if old is not None and new is not None and _is_half(new):
                self._buffers[name] = old.to(new.device)  # as it was: rounding and back would lose digits
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        for name, buffer in self._buffers.items():  # load_state_dict(assign=True) takes them as they are stored
            if buffer is not None and _is_half(buffer):
                self._buffers[name] = buffer.float()

    def check(self, x: Tensor, residual: Tensor | None = None) -> None:
        """Refuse an input that is not [N, num_features, ...] with at most three more dimensions, or one without values.

        Args:
            residual: of the shape and dtype of x, or it is refused too.
        """
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
        check_input(x, residual)

    def __repr__(self) -> str:
        """One line, which evaluates, since the parts follow from the arguments; more if something was put after it."""
        return super().__repr__() if self._tail else f"{type(self).__name__}({self.extra_repr()})"

    def extra_repr(self) -> str:
        """The constructor's arguments that are not defaults, so that the repr evaluates to a layer like this one."""
        accepted = _arguments(type(self))
        args, kwargs = self._call
        given = dict(zip(accepted, args, strict=False)) | kwargs
        parts = [str(self.num_features)]
        for name, default in accepted.items():
            # an attribute of the same name may have been changed since
            value = self.__dict__.get(name, given.get(name, default))
            if isinstance(value, Tensor):
                value = value.tolist()
            if name not in ("num_features", "device", "dtype") and value != default:
                parts.append(f"{name}={value!r}")
        return ", ".join(parts)


@functools.cache
def _arguments(cls: type[Layer]) -> dict[str, Any]:
    """The names that the constructor takes, in order, with their defaults, also those of `**options: Unpack[...]`."""
    accepted: dict[str, Any] = {}
    defaults = [p for base in cls.__mro__ for p in inspect.signature(base.__init__).parameters.values()]
    for p in list(inspect.signature(cls.__init__).parameters.values())[1:]:
        if p.kind is not p.VAR_KEYWORD:
            accepted[p.name] = p.default
            continue
        options = get_args(get_type_hints(cls.__init__)[p.name])[0]
        accepted |= {name: next(q.default for q in defaults if q.name == name) for name in get_type_hints(options)}
    return accepted


class Norm(Layer):
    """A layer that is scale·x + shift, with scale and shift from the instance moments."""

    @abstractmethod
    def affine_map(self, m: Moments) -> tuple[Tensor, Tensor]:
        """(scale, shift) from the instance moments [N, C]."""

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Normalize x [N, C, *S]; with a residual, add it before the activation."""
        self.check(x, residual)
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


def among(option: str, value: str, known: tuple[str, ...]) -> None:
    """Refuse a value that is not among those known."""
    if value not in known:
        raise UnknownName(option, value, known)


def _fill(value: Tensor, initial: Initial) -> None:
    with torch.no_grad():
        if callable(initial):
            initial(value)
        else:
            value.fill_(initial)


def _is_half(value: Tensor) -> bool:
    return value.dtype in (torch.float16, torch.bfloat16)
