"""What hooks are given: which tensor is meant, what can be measured of it, and which modules are nonlinearities."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from normlab.functional.backends import traced

_ACTIVATIONS = (
    "torch.nn.modules.activation",
    "timm.layers.activations",
    "transformers.activations",
    "normlab.layers.scaled_relu",
)
_NO_ACTIVATIONS = (nn.MultiheadAttention, nn.Softmax, nn.Softmax2d, nn.LogSoftmax, nn.Softmin)


class Hook:
    """A bound method as a hook; copies of the model, pickled or deep, have one that does nothing in its place."""

    def __init__(self, method: Callable[..., None], *first: Any) -> None:
        self.method, self.first = method, first

    def __call__(self, *args: Any) -> None:
        """Call the method, but in what torch traces."""
        if not torch.compiler.is_compiling():
            self.method(*self.first, *args)

    def __reduce__(self) -> tuple[Any, ...]:
        return Hook, (_nothing,)


def _nothing(*_: Any) -> None:
    pass


class Left:
    """A tensor that has left a layer, which is not kept alive."""

    def __init__(self, y: Tensor) -> None:
        self._y, self._version = weakref.ref(y), _version(y)

    def reaches(self, x: object) -> bool:
        """Is x that tensor, with the same values? Where torch does not count changes in place, it may not be."""
        return isinstance(x, Tensor) and self._y() is x and self._version is not None and _version(x) == self._version


def _version(x: Tensor) -> int | None:
    return None if x.is_inference() else x._version


def is_activation(module: nn.Module) -> bool:
    """Is it a nonlinearity of torch's, timm's, transformers' or normlab's?"""
    home = type(module).__module__
    return home.startswith(_ACTIVATIONS) and not isinstance(module, _NO_ACTIVATIONS)


def first_tensor(value: Any) -> Tensor | None:
    """The first one in nested tuples, lists and dicts."""
    return next(_tensors(value), None)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors(part)


def unfit(x: Tensor | None) -> str | None:
    """Why nothing can be measured of x."""
    if x is None:
        return "it was called without a tensor"
    if not x.is_floating_point():
        return f"its values are {x.dtype}"
    if x.layout != torch.strided or x.is_nested:
        return "its input is sparse or nested"
    if x.dim() < 2 or not x.numel():
        return f"its input {list(x.shape)} is no batch"
    return traced(x)
