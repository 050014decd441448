"""Runs a model without leaving a trace, on another device too."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from normlab.surgery.statistics.borrow import uncompiled

_DICTS = ("_parameters", "_buffers", "_modules")


@contextmanager
def sandbox(model: nn.Module, device: torch.device | None = None) -> Generator[None]:
    """While it lasts, the model holds clones of its parameters and buffers, without hooks on gradients.

    Whatever happens inside, afterwards it holds the very tensors of before, which nothing was written to, and their
    gradients; each module has its attributes and parts again, the training flag among them, and generators of random
    numbers go on from where they were: the global ones, and torch's and NumPy's that are attributes of modules.
    Compiled parts run uncompiled.

    Not put back is what the model changes in place and keeps elsewhere: tensors that are neither parameters nor
    buffers, lists, dicts and objects, with generators in them; files.

    Args:
        device: where the clones are.
    """
    held = [(module, dict(vars(module)), [dict(vars(module)[name]) for name in _DICTS]) for module in model.modules()]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    rewinds = list(_rewinds(model))
    try:
        with same_random_numbers(device), uncompiled(), torch.inference_mode(False):
            _swap(model, device)
            yield
    finally:
        for module, before, contents in held:
            for name, content in zip(_DICTS, contents, strict=True):
                before[name].clear()
                before[name].update(content)
            variables = vars(module)
            for name in variables.keys() - before.keys():
                del variables[name]
            variables.update(before)
        for parameter, gradient in gradients:  # of layers that keep references of their own, as recurrent ones do
            parameter.grad = gradient
        for rewind in rewinds:
            rewind()


def _rewinds(model: nn.Module) -> Iterator[Callable[[], object]]:
    """What puts back the generators that are attributes of modules."""
    numpy: Any = sys.modules.get("numpy")
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, torch.Generator):
                yield partial(value.set_state, value.get_state())
            elif numpy is not None and isinstance(value, numpy.random.Generator):
                yield partial(setattr, value.bit_generator, "state", value.bit_generator.state)
            elif numpy is not None and isinstance(value, numpy.random.RandomState):
                yield partial(value.set_state, value.get_state())


def _swap(model: nn.Module, device: torch.device | None) -> None:
    """What is one tensor under two names is one clone."""
    clones: dict[int, Tensor] = {}
    for parameter in model.parameters():
        parameter.grad = None
    for module in model.modules():
        for slots in (module._parameters, module._buffers):  # pyright: ignore[reportPrivateUsage]
            for name, value in slots.items():
                if value is not None:
                    if id(value) not in clones:
                        clones[id(value)] = _clone(value, device)
                    slots[name] = clones[id(value)]  # pyright: ignore[reportArgumentType]


def _clone(value: Tensor, device: torch.device | None) -> Tensor:
    with torch.no_grad():
        clone = value.detach().clone() if device is None or device == value.device else value.detach().to(device)
    return nn.Parameter(clone, requires_grad=value.requires_grad) if isinstance(value, nn.Parameter) else clone


@contextmanager
def same_random_numbers(device: torch.device | None = None) -> Generator[None]:
    """What is drawn inside, by Python, NumPy or torch, is drawn once more afterwards."""
    python = random.getstate()
    numpy: Any = sys.modules.get("numpy")
    state = None if numpy is None else numpy.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() or _is_cuda(device) else ()
    try:
        with torch.random.fork_rng(list(devices)):
            yield
    finally:
        random.setstate(python)
        if numpy is not None:
            numpy.random.set_state(state)


def _is_cuda(device: torch.device | None) -> bool:
    return device is not None and device.type == "cuda"
