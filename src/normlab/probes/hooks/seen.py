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
_BACKWARD_HOOK = "BackwardHookFunctionBackward"
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
    """A tensor that has left a layer, which is not kept alive.

    Args:
        module: the layer. Where it has full backward hooks, torch hands on another tensor with the same values, whose
            node comes right after that of y.
    """

    def __init__(self, y: Tensor, module: nn.Module) -> None:
        self._y, self._version = weakref.ref(y), _version(y)
        self.node = y.grad_fn if _replaces_output(module) else None

    @property
    def key(self) -> int:
        """What `arriving` gives of the tensor that reaches the next module."""
        return id(self._y()) if self.node is None else id(self.node)

    def reaches(self, x: object) -> bool:
        """Is x that tensor, with the same values? Where torch does not count changes in place, it may not be."""
        if not isinstance(x, Tensor) or self._version is None or _version(x) != self._version:
            return False
        return self._y() is x if self.node is None else self.node is _behind(x)


def arriving(x: object) -> int:
    """The key of the `Left` that x may be."""
    node = _behind(x)
    return id(x) if node is None else id(node)


def _behind(x: object) -> Any:
    """The node before the one by which torch calls full backward hooks; None where there are none."""
    node = x.grad_fn if isinstance(x, Tensor) else None
    return node.next_functions[0][0] if node is not None and node.name() == _BACKWARD_HOOK else None


def _replaces_output(module: nn.Module) -> bool:
    return bool(module.__dict__["_backward_hooks"] or module.__dict__["_backward_pre_hooks"])


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
