"""In what circumstances a forward pass runs, as far as they bear on state that it would update."""

from __future__ import annotations

import torch
from torch import Tensor

from normlab.errors import SpecError


def in_backward() -> bool:
    """Is this a forward pass inside a backward pass, as activation checkpointing runs it a second time?"""
    if torch.compiler.is_compiling():
        return False
    return torch._C._current_graph_task_id() != -1  # pyright: ignore


def check_writable(buffer: Tensor, *newest: Tensor) -> None:
    """Refuse to write values to state that torch.func has not been given, before torch fails halfway.

    Raises:
        SpecError: says what would do.
    """
    if torch.compiler.is_compiling():
        return
    func = torch._C._functorch  # pyright: ignore
    top = func.peek_interpreter_stack()
    if top is None or func.is_functorch_wrapped_tensor(buffer):
        return
    # vmap lets values be written that are the same for all of its batch
    if top.key() != func.TransformType.Vmap or any(func.is_functorch_wrapped_tensor(value) for value in newest):
        raise SpecError(
            "torch.func transforms a training forward that updates running statistics, and these are not among its "
            "arguments. Pass them too, stacked for vmap: functional_call(layer, (parameters, buffers), x); or use eval "
            "mode, or track_running_stats=False."
        )
