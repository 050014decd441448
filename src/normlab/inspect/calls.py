"""Notes in which order layers are called, on what, and whether it is finite."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from normlab.functional.backends import stats_dtype
from normlab.layers.circumstances import in_backward
from normlab.probes import Target
from normlab.probes.hooks.seen import first_tensor
from normlab.surgery.statistics.kept import buffers_of, effective, kept


@dataclass
class Seen:
    """A layer that was called.

    Args:
        shape: of what it got first. size: values in what is differentiated, its input if it normalizes, or its output.
        calls: without those that activation checkpointing repeats.
        came, went: all that came in, or went out, was finite.
        lag: how far the mean of what it gets is from its running mean, rms over the channels, in running standard
            deviations; None where it keeps none, or has counted no batch.
    """

    shape: tuple[int, ...]
    size: int
    calls: int = 0
    came: bool = True
    went: bool = True
    lag: float | None = None


@dataclass
class Calls:
    """What was seen by the names of the layers, in the order of their first calls; `at`: those at work now."""

    seen: dict[str, Seen] = field(default_factory=dict[str, Seen])
    at: list[str] = field(default_factory=list[str])

    @property
    def where(self) -> str:
        """The layer at work, for a message."""
        if not self.at or self.at[-1] not in self.seen:
            return ""
        name = self.at[-1]
        shape = "x".join(map(str, self.seen[name].shape))
        return f"{f'layer {name}' if name else 'the model'} on {shape}: "


@contextmanager
def watched(targets: Sequence[Target], *, lags: bool) -> Generator[Calls]:
    """Note the calls of these layers while it lasts; `lags`: their running means too."""
    calls = Calls()
    with ExitStack() as hooks:
        for target in targets:
            entering, leaving = _entering(target, calls, lags=lags), _leaving(target, calls)
            add = target.module.register_forward_pre_hook
            hooks.callback(add(entering, prepend=True, with_kwargs=True).remove)
            hooks.callback(target.module.register_forward_hook(leaving).remove)
        yield calls


def _entering(target: Target, calls: Calls, *, lags: bool) -> Any:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = first_tensor((args, kwargs))
        if in_backward() or x is None:
            return
        x = x.detach()
        if target.name not in calls.seen:
            calls.seen[target.name] = Seen(tuple(x.shape), x.numel(), lag=_lag(target.module, x) if lags else None)
        seen = calls.seen[target.name]
        seen.calls += 1
        seen.came &= _finite(x)
        calls.at.append(target.name)

    return hook


def _leaving(target: Target, calls: Calls) -> Any:
    def hook(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        if in_backward() or target.name not in calls.at:
            return
        while calls.at.pop() != target.name:  # layers that raised inside, and something caught it
            pass
        y = first_tensor(output)
        if y is None:
            return
        seen = calls.seen[target.name]
        seen.went &= _finite(y.detach())
        if target.norm is None:
            seen.size = y.numel()

    return hook


def _finite(x: Tensor) -> bool:
    if not x.is_floating_point() or bool(x.sum().isfinite()):  # which takes a fifth of the time
        return True
    return bool(x.isfinite().all())


def _lag(module: nn.Module, x: Tensor) -> float | None:
    keeps, counter = kept(module), getattr(module, "num_batches_tracked", None)
    if keeps is None or keeps.mean is None or keeps.var is None or not isinstance(counter, Tensor) or not int(counter):
        return None
    values = effective(keeps, buffers_of(module, keeps), counter)
    mean, var = values[keeps.mean], values[keeps.var]
    now = x.to(stats_dtype(x.dtype)).mean([dim for dim in range(x.dim()) if dim != 1]).to(mean)
    if now.shape != mean.shape:
        return None
    deviation = (var + float(getattr(module, "eps", 0.0))).clamp(min=torch.finfo(torch.float32).tiny).sqrt()
    return float(((now - mean) / deviation).square().mean().sqrt())
