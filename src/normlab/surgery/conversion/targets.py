"""What `convert` was asked for, as a function from an old layer to a new one."""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from normlab.errors import NormlabError, SpecError, UnknownName, came
from normlab.layers import CONVS, NORMS, GroupNorm, Layer
from normlab.registry import parse
from normlab.surgery.conversion.carry import arguments, own_arguments, own_tensors, width
from normlab.surgery.known import NormType
from normlab.surgery.sites import known_type, norm_type

Factory = Callable[[int], nn.Module]


@dataclass(frozen=True)
class Target:
    """A kind of layer to convert to.

    Args:
        text: as the user wrote it.
        named: the arguments that the user gave, which nothing carried over may replace.
        factory: makes a layer from num_features; None for a registered one, which `text` names.
    """

    text: str
    named: Mapping[str, Any] = field(default_factory=dict[str, Any])
    factory: Factory | None = None

    @property
    def convolution(self) -> bool:
        """Does it take the place of convolutions?"""
        return self.factory is None and self.name in CONVS

    @property
    def name(self) -> str:
        """The registered name."""
        return self.text.partition("(")[0].strip()


def read_target(spec: str | Factory) -> Target:
    """Understand the `spec` of `convert`.

    Raises:
        UnknownName: no such layer, or it takes no such argument.
        SpecError: neither a string nor a function from num_features to a layer.
    """
    if isinstance(spec, str):
        call = parse(spec, kind="norm")
        if call.name not in NORMS and call.name not in CONVS:
            raise UnknownName("norm", call.name, [*NORMS, *CONVS])
        registry, given = (NORMS, ("num_features",)) if call.name in NORMS else (CONVS, _REQUIRED)
        registry.parse(spec, given=given)
        return Target(spec, call.arguments)
    if isinstance(spec, nn.Module) or not callable(spec):  # pyright: ignore[reportUnnecessaryIsInstance] - as below
        raise SpecError(
            "convert takes a spec such as 'group(num_groups=8)', or a function from num_features to a new layer, such "
            f"as lambda c: nn.GroupNorm(8, c); got an instance of {type(spec).__name__}"
        )
    if _registered(spec) is not None:
        return Target(str(_registered(spec)))
    named = spec.keywords if isinstance(spec, functools.partial) else {}
    return Target(getattr(spec, "__name__", type(spec).__name__), named, spec)


_REQUIRED = ("in_channels", "out_channels", "kernel_size")


def make_norm(target: Target, old: nn.Module, known: NormType, like: Tensor | None) -> nn.Module:
    """A new layer with the arguments of `old` that `target` takes and does not name, on the device of `old`.

    Args:
        like: tells device and dtype; None for the defaults.

    Raises:
        SpecError: there can be no such layer.
    """
    size, carried = width(old), arguments(old, known)
    place = {} if like is None else {"device": like.device, "dtype": like.dtype}
    if target.factory is not None:
        new = _by_factory(target.factory, target, size, carried, known, place)
    else:
        new = _by_name(target, old, size, carried, known, place)
    had, has = _dimensions(old), _dimensions(new)
    if had and has and had != has:
        raise SpecError(
            f"{type(new).__name__} takes other inputs, {has} and not {had}: `where` chooses among the layers"
        )
    if "process_group" in vars(old) and "process_group" in vars(new) and "process_group" not in target.named:
        new.process_group = old.process_group
    return new


def _dimensions(module: nn.Module) -> str | None:
    """1d, 2d or 3d, of a layer that torch has for one number of dimensions alone."""
    names = [cls.__name__ for cls in type(module).__mro__ if cls.__module__.startswith("torch.nn.modules.")]
    return next((name[-2:] for name in names if name[-2:] in ("1d", "2d", "3d")), None)


def _by_name(
    target: Target, old: nn.Module, size: int, carried: dict[str, Any], known: NormType, place: dict[str, Any]
) -> nn.Module:
    hints = set(NORMS.hints(target.name))
    cls = NORMS[target.name]
    if isinstance(old, Layer) and cls is type(old):
        carried |= own_arguments(old, hints - {"num_features", "affine", "bias"})
    given = _fitting(carried, hints, target.named, known, known_type(cls) if isinstance(cls, type) else None)
    return NORMS.create(target.text, num_features=size, **given, **place)


def _fitting(
    carried: dict[str, Any], takes: set[str], named: Mapping[str, Any], known: NormType, own: NormType | None
) -> dict[str, Any]:
    have = carried.get("momentum_convention", "torch")
    want = named.get("momentum_convention", have if "momentum_convention" in takes else "torch")
    if have != want and carried.get("momentum") is not None:
        carried = carried | {"momentum": 1 - carried["momentum"]}
    if own is None or own.kind != known.kind:
        carried = {name: value for name, value in carried.items() if name != "track_running_stats"}
    if not named.get("affine", carried["affine"]):
        carried = {name: value for name, value in carried.items() if name not in ("scale", "formulation")}
    return {name: value for name, value in carried.items() if name in takes and name not in named}


def _by_factory(
    factory: Factory, target: Target, size: int, carried: dict[str, Any], known: NormType, place: dict[str, Any]
) -> nn.Module:
    cls = factory.func if isinstance(factory, functools.partial) else factory
    given: dict[str, Any] = {}
    if isinstance(cls, type):  # a function of the user's says all that it wants
        by_position = len(factory.args) + 1 if isinstance(factory, functools.partial) else 1
        takes = _taken_by(cls, by_position)
        given = _fitting(carried, takes, target.named, known, known_type(cls))
        given |= {name: value for name, value in place.items() if name in takes}
    try:
        new = factory(size, **given)
    except NormlabError:
        raise
    except Exception as error:
        raise SpecError(f"{target.text}({size}) raises {type(error).__name__}: {error}") from error
    if not isinstance(new, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance] - the caller may not be typed
        raise SpecError(f"{target.text}({size}) should give a torch module, and gave {came(new)}")
    if any(is_lazy(value) for value in (*new.parameters(), *new.buffers())):
        raise SpecError(f"{target.text}({size}) gives a lazy layer, which has no use for the number {size}")
    if "device" in place:
        new.to(device=place["device"], dtype=place["dtype"])
    own = norm_type(new)
    if own is not None and not isinstance(new, Layer):
        for name, present in ((own.weight, carried["affine"]), (own.bias, carried["bias"])):
            if not present and name in vars(new)["_parameters"] and not {"affine", "bias"} & set(target.named):
                new.register_parameter(name, None)
    return new


def _taken_by(cls: type, by_position: int) -> set[str]:
    """The keyword arguments of a class, of which so many are given by position."""
    name, by_name = _registered(cls), list(inspect.signature(cls).parameters)
    return (set(by_name) if name is None else NORMS.hints(name).keys()) - set(by_name[:by_position])


def _registered(cls: Any) -> str | None:
    """The name of a norm of ours, by its class."""
    return next((name for name in NORMS if NORMS[name] is cls), None)


def reference(module: nn.Module, model: nn.Module) -> Tensor | None:
    """A tensor with the dtype and device of the module: its first of floating point, or else the model's."""
    every = itertools.chain(own_tensors(module).values(), module.parameters(), model.parameters(), model.buffers())
    return next((value for value in every if value.is_floating_point()), None)


def one_line(module: nn.Module, *, library: bool) -> str:
    """The name of the layer, and arguments that are not defaults but for the number of features."""
    cls = type(module)
    parts = _arguments_of(module)
    inside = f"({', '.join(parts)})" if parts else ""
    return (f"{cls.__module__.partition('.')[0]}." if library else "") + cls.__name__ + inside


def _arguments_of(module: nn.Module) -> list[str]:
    given: dict[str, str] = {}
    if isinstance(module, (nn.GroupNorm, GroupNorm)):
        given["num_groups"] = str(module.num_groups)
    if isinstance(module, Layer):
        call = ast.parse(f"layer({module.extra_repr()})", mode="eval").body
        assert isinstance(call, ast.Call)
        given |= {str(keyword.arg): ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg != "lower"}
    return [f"{name}={value}" for name, value in given.items()]
