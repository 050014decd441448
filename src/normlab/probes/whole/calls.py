"""What the modules of a model are called with, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from normlab.errors import SpecError, require
from normlab.surgery.statistics.borrow import require_shapes


def require_values(model: object) -> None:
    """Refuse what is no module, or has parameters or buffers without values: lazy ones, or those on the meta device.

    Raises:
        SpecError: says which.
    """
    require(model, nn.Module, "the model is a torch module")
    assert isinstance(model, nn.Module)
    require_shapes(model)
    if any(value.is_meta for value in (*model.parameters(), *model.buffers())):
        raise SpecError(f"{type(model).__name__} is on the meta device, where nothing is computed")


def as_number(value: Any) -> float:
    """The value, or NaN where it is no number."""
    try:
        return float("nan") if isinstance(value, (str, bytes)) else float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return float("nan")


def call_order(model: nn.Module, run: Callable[[], Any]) -> list[str]:
    """All modules by name, as they are first called in a run; one that never is comes after what it is part of."""
    called: dict[str, int] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            called.setdefault(name, len(called))

        return hook

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            hooks.callback(module.register_forward_pre_hook(note(name)).remove)
        run()
    names = [name for name, _ in model.named_modules()]
    return sorted(names, key=lambda name: (_rank(name, called), names.index(name)))


def _rank(name: str, called: dict[str, int]) -> int:
    while name not in called and name:
        name = name.rpartition(".")[0]
    return called.get(name, -1)


def input_shapes(layers: Mapping[str, nn.Module], run: Callable[[], Any]) -> dict[str, torch.Size]:
    """By name, the shape of the first input of each layer at its first call in a run, without the batch."""
    found: dict[str, torch.Size] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            if args and isinstance(args[0], Tensor) and args[0].dim() > 1:
                found.setdefault(name, args[0].shape[1:])

        return hook

    with ExitStack() as hooks:
        for name, layer in layers.items():
            hooks.callback(layer.register_forward_pre_hook(note(name)).remove)
        run()
    return found
