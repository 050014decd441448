"""Holds channels of a layer's output at a value."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from normlab.errors import SpecError, UnknownName
from normlab.probes.base import Target
from normlab.probes.hooks.seen import Left, is_activation
from normlab.surgery import frozen_stats, norm_type


class Clamp:
    """Made by `clamped`.

    Attributes:
        chosen: channels to hold; None leaves all alone.
        channels: how many there are, from the first pass on.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.chosen: Tensor | None = None
        self.channels = 0
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

    def learn(self) -> None:
        """Check that there was a pass.

        Raises:
            SpecError: there was none.
        """
        if not self.channels:
            raise SpecError(f"accuracy() does not call {self.target.name!r}, so nothing of it can be clamped")

    def collect_means(self, run: Callable[[], Any]) -> None:
        """Hold channels at their means over all passes of a run, from now on."""
        self._summing = True
        run()
        self._summing = False
        self._values = self._total / self._count

    def leaving(self, _: nn.Module, __: Any, y: Any) -> Tensor | None:
        """Hook of the layer."""
        if not isinstance(y, Tensor) or y.dim() < 2:
            raise SpecError(f"the output of {self.target.name!r} is no tensor [N, C, ...]: choose another layer")
        self.channels = y.shape[self.target.channel]
        self._newest = Left(y)
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

    def _held(self, y: Tensor) -> Tensor | None:
        channel = self.target.channel % y.dim()
        if self._summing:
            dims = [dim for dim in range(y.dim()) if dim != channel]
            self._total = self._total.to(y.device) + y.double().sum(dims)
            self._count += y.numel() // y.shape[channel]
        if self.chosen is None:
            return None
        held = y.clone()
        places = self.chosen.to(y.device)
        shape = [1] * y.dim()
        shape[channel] = len(places)
        values = y.new_zeros(shape) if self._values is None else self._values.to(y)[places].reshape(shape)
        index = [slice(None)] * channel
        held[(*index, places)] = values
        return held


@contextmanager
def clamped(model: nn.Module, layer: str) -> Generator[Clamp]:
    """While it lasts, the model is in eval mode, without autograd, and its channels can be held.

    Raises:
        UnknownName: no such layer.
    """
    modules = dict(model.named_modules())
    if layer not in modules:
        raise UnknownName("layer", layer, modules)
    clamp = Clamp(Target(layer, modules[layer], norm_type(modules[layer])))
    flags = [(module, module.training) for module in modules.values()]
    with ExitStack() as stack:
        stack.callback(_put_back, flags)
        stack.callback(modules[layer].register_forward_hook(clamp.leaving).remove)
        for name, module in modules.items():
            if is_activation(module) and name != layer:
                stack.callback(module.register_forward_pre_hook(clamp.entering_activation, prepend=True).remove)
                stack.callback(module.register_forward_hook(clamp.leaving_activation(name)).remove)
        model.eval()
        stack.enter_context(torch.no_grad())
        stack.enter_context(frozen_stats(model))
        yield clamp


def _put_back(flags: list[tuple[nn.Module, bool]]) -> None:
    for module, flag in flags:
        module.training = flag
