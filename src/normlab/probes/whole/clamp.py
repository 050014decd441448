"""Holds channels of a layer's output at a value."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from normlab.errors import SpecError, UnknownName, came
from normlab.probes.base import Target
from normlab.probes.hooks.seen import Left, is_activation
from normlab.probes.whole.calls import require_values
from normlab.surgery import frozen_stats, norm_type
from normlab.surgery.conversion.adapt import features
from normlab.surgery.statistics.borrow import modes_kept, uncompiled

Accuracy = Callable[[], float]
Fill = Literal["zero", "mean"]


class Clamp:
    """Made by `clamped`.

    Attributes:
        channels: how many there are, after `begin`.
    """

    def __init__(self, target: Target, accuracy: Accuracy) -> None:
        self.target, self._accuracy = target, accuracy
        self.channels, self._channel = 0, _channel(target)
        self._chosen: Tensor | None = None
        self._values: Tensor | None = None
        self._total, self._count = torch.zeros((), dtype=torch.float64), 0
        self._summing = False
        self._follower: str | None = None
        self._newest: Left | None = None
        self._coming: nn.Module | None = None

    @property
    def place(self) -> str:
        """The module whose output is held."""
        return self._follower or self.target.name

    def begin(self, fill: Fill) -> float:
        """The accuracy of the intact network, which shows where to hold; a second run of it shows what the means are.

        Raises:
            SpecError: no such fill; the layer is not called, or its output has no channels; no number comes back.
        """
        if fill not in get_args(Fill):
            raise SpecError(f"fill={fill!r} should be 'zero' or 'mean'")
        intact = self._evaluate()
        if not self.channels:
            raise SpecError(f"accuracy() does not call {self.target.name!r}, so nothing of it can be clamped")
        if fill == "mean":
            self._summing = True
            self._evaluate()
            self._summing, self._values = False, self._total / self._count
        return intact

    def accuracy_without(self, channels: Sequence[int]) -> float:
        """The accuracy while these channels are held."""
        self._chosen = torch.tensor(list(channels))
        try:
            return self._evaluate()
        finally:
            self._chosen = None

    def leaving(self, module: nn.Module, _: Any, y: Any) -> Tensor | None:
        """Hook of the layer."""
        if not isinstance(y, Tensor) or y.dim() < 2:
            raise SpecError(f"the output of {self.target.name!r} is no tensor [N, C, ...]: choose another layer")
        self.channels = y.shape[self._channel]
        self._newest = Left(y, module)
        return self._held(y) if self._follower is None else None

    def entering_activation(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Hook of every activation module."""
        if args and self._newest is not None and self._newest.reaches(args[0]):
            self._coming = module

    def leaving_activation(self, name: str) -> Callable[..., Tensor | None]:
        """Hook of the activation module of this name."""

        def hook(module: nn.Module, _: Any, y: Any) -> Tensor | None:
            if self._coming is not module:
                return None
            self._coming, self._newest, self._follower = None, None, name
            return self._held(y) if isinstance(y, Tensor) else None

        return hook

    def _evaluate(self) -> float:
        found: Any = self._accuracy()
        one = isinstance(found, Tensor) and found.numel() == 1
        if not one and not isinstance(found, numbers.Real):
            raise SpecError(f"accuracy() should give one number, the accuracy of the model on data; got {came(found)}")
        return float(found)

    def _held(self, y: Tensor) -> Tensor | None:
        channel = self._channel % y.dim()
        if self._summing:
            dims = [dim for dim in range(y.dim()) if dim != channel]
            self._total = self._total.to(y.device) + y.double().sum(dims)
            self._count += y.numel() // y.shape[channel]
        if self._chosen is None:
            return None
        held = y.clone()
        places = self._chosen.to(y.device)
        shape = [1] * y.dim()
        shape[channel] = len(places)
        values = y.new_zeros(shape) if self._values is None else self._values.to(y)[places].reshape(shape)
        index = [slice(None)] * channel
        held[(*index, places)] = values
        return held


def _channel(target: Target) -> int:
    """The dimension of channels of what comes out: a norm that `convert` exchanged gives the layout of the old one."""
    outside = features(target.module)
    return target.channel if outside is None else -1 if outside == "last" else 1


@contextmanager
def clamped(model: nn.Module, layer: str, accuracy: Accuracy) -> Generator[Clamp]:
    """While it lasts, the model is in eval mode, without autograd, and its channels can be held.

    Raises:
        UnknownName: no such layer.
        SpecError: `accuracy` is no function.
    """
    require_values(model)
    if not callable(accuracy):
        raise SpecError(f"accuracy is a function that evaluates the model; got {came(accuracy)}")
    modules = dict(model.named_modules())
    if layer not in modules:
        raise UnknownName("layer", layer, filter(None, modules))
    clamp = Clamp(Target(layer, modules[layer], norm_type(modules[layer])), accuracy)
    with ExitStack() as stack:
        stack.enter_context(modes_kept(model))
        stack.callback(modules[layer].register_forward_hook(clamp.leaving).remove)
        for name, module in modules.items():
            if is_activation(module) and name != layer:
                stack.callback(module.register_forward_pre_hook(clamp.entering_activation, prepend=True).remove)
                stack.callback(module.register_forward_hook(clamp.leaving_activation(name)).remove)
        model.eval()
        stack.enter_context(torch.no_grad())
        stack.enter_context(frozen_stats(model))
        stack.enter_context(uncompiled())
        yield clamp
