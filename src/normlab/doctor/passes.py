"""Runs a model once in training mode, without a trace, and notes what its norms get and give."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from normlab.functional.backends import stats_dtype
from normlab.inputs import Inputs, alone, loss_of, sandbox, values_of
from normlab.layers.circumstances import in_backward
from normlab.surgery import Site
from normlab.surgery.statistics.kept import kept


@dataclass
class Call:
    """One call of a norm.

    Args:
        shape: of its input. again: inside a backward pass, as activation checkpointing calls it.
        mean, var: of the batch, [C], biased; spread: variance over the examples of their own means, [C]. None where
            the layer has no batch statistics, or the input no channels.
        finite: neither NaN nor infinity came in. entered, largest: absolute values that came in and went out, at most.
        overflows: the square of what came in, in the type of its statistics.
        layout: came in and went out as channels last; None where channels first and last are the same.
        moved: running statistics changed.
    """

    site: Site
    shape: tuple[int, ...]
    again: bool
    finite: bool
    mean: Tensor | None = None
    var: Tensor | None = None
    spread: Tensor | None = None
    entered: float = 0.0
    overflows: bool = False
    largest: float = 0.0
    layout: tuple[bool | None, bool | None] = (None, None)
    moved: bool = False
    before: list[Tensor] = field(default_factory=list, repr=False)

    @property
    def values(self) -> int:
        """Per channel, in the batch."""
        return self.shape[0] * self.positions

    @property
    def positions(self) -> int:
        """Values per channel of one example."""
        return int(torch.Size(self.shape[2:]).numel())


@dataclass
class Pass:
    """A forward pass, and what came of it.

    Args:
        outputs: detached. loss: what was differentiated, in words; empty where nothing was.
        error: what the model raised. at: the norm in which it did.
    """

    size: int
    calls: list[Call] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    loss: str = ""
    error: Exception | None = None
    at: Call | None = None


def run(
    model: nn.Module,
    sites: Sequence[Site],
    inputs: Inputs,
    device: torch.device,
    *,
    backward: bool = False,
    training: bool = True,
) -> Pass:
    """One pass, in training mode or eval mode; what the model raises is part of the result, also as it is copied."""
    found = Pass(inputs.size)
    at_work: list[Call] = []
    try:
        with sandbox(model, device), _watched(sites, found.calls, at_work), alone(sites), torch.enable_grad():
            outputs = inputs.call(model.train(training), device)
            loss, said = loss_of(outputs) if backward else (None, "")
            found.outputs = [value.detach() for value in values_of(outputs)]
            del outputs
            if loss is not None:
                found.loss = said
                loss.backward()
                _settle(at_work)
    except Exception as error:  # whatever somebody else's model does is an answer here
        found.error, found.at = error.with_traceback(None), at_work[-1] if at_work else None
    return found


@contextmanager
def _watched(sites: Sequence[Site], calls: list[Call], at_work: list[Call]) -> Generator[None]:
    with ExitStack() as hooks:
        for site in sites:
            module = site.module
            hooks.callback(module.register_forward_pre_hook(_enter(site, calls, at_work), prepend=True).remove)
            hooks.callback(module.register_forward_hook(_leave(at_work)).remove)
        yield


def _enter(site: Site, calls: list[Call], at_work: list[Call]) -> Callable[..., None]:
    def pre_hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        x = args[0].detach() if args and isinstance(args[0], Tensor) else torch.empty(0)
        call = Call(site, tuple(x.shape), in_backward(), bool(x.isfinite().all()))
        call.entered = float(x.abs().max()) if x.numel() else 0.0
        call.overflows = call.entered * call.entered > torch.finfo(stats_dtype(x.dtype)).max
        if site.kind in ("batch", "instance") and x.dim() > 1 and x.numel():
            _measure(call, x)
        call.layout = (_channels_last(x), None)
        call.before = [buffer.clone() for buffer in _statistics(module)]
        calls.append(call)
        at_work.append(call)

    return pre_hook


def _leave(at_work: list[Call]) -> Callable[..., None]:
    def hook(module: nn.Module, _: tuple[Any, ...], output: Any) -> None:
        while at_work[-1].site.module is not module:
            _settle([at_work.pop()])
        call = at_work.pop()
        if isinstance(output, Tensor) and output.numel():
            call.largest = float(output.detach().abs().max())
            call.layout = (call.layout[0], _channels_last(output))
        _settle([call])

    return hook


def _settle(calls: Sequence[Call]) -> None:
    """Did the statistics move? Checkpointing breaks off calls of which it has all it needs: these are settled late."""
    for call in calls:
        now = _statistics(call.site.module)
        call.moved = any(not torch.equal(a, b) for a, b in zip(call.before, now, strict=True))
        call.before = []


def _measure(call: Call, x: Tensor) -> None:
    x = x.to(stats_dtype(x.dtype)).reshape(len(x), x.shape[1], -1)
    var, mean = torch.var_mean(x, (0, 2), correction=0)
    call.mean, call.var = mean, var
    call.spread = x.mean(2).var(0, correction=1) if len(x) > 1 else torch.full_like(mean, torch.inf)


def _statistics(module: nn.Module) -> list[Tensor]:
    keeps = kept(module)
    return [] if keeps is None else [module.get_buffer(name) for name in keeps.statistics]


def _channels_last(x: Tensor) -> bool | None:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    if x.dim() not in formats:
        return None
    last, first = x.is_contiguous(memory_format=formats[x.dim()]), x.is_contiguous()
    return None if last == first else last
