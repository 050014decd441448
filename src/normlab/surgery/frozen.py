"""Runs a model without any of its buffers moving."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from normlab.errors import SpecError, require


@contextmanager
def frozen_stats(model: nn.Module) -> Generator[None]:
    """While it lasts, forward passes leave every buffer of every module as it was, counters included.

    Inside, each module holds clones of its buffers (what was one tensor under two names is one clone), which are
    thrown away at the end; then the very tensors of before are held again, whatever happened in between. Nothing is
    written to them, so graphs of earlier passes stay valid, and every normalizer is covered, also one that nobody
    told normlab about, if what it remembers is a buffer. It may be nested; compiled models do not recompile.

    Raises:
        SpecError: a lazy layer that has seen no input: its first forward pass would write to the buffer itself.
    """
    require(model, nn.Module, "frozen_stats takes a torch module")
    every = [module._buffers for module in model.modules()]  # pyright: ignore[reportPrivateUsage]
    held = [(buffers, dict(buffers)) for buffers in every]
    lazy = [name for name, buffer in model.named_buffers() if is_lazy(buffer)]
    if lazy:
        raise SpecError(f"buffer {lazy[0]!r} has no shape yet: run one forward pass before you freeze the statistics")
    clones: dict[int, Tensor] = {}
    try:
        for buffers, before in held:
            for name, buffer in before.items():
                if buffer is not None:
                    if id(buffer) not in clones:
                        clones[id(buffer)] = buffer.detach().clone()
                    buffers[name] = clones[id(buffer)]
        yield
    finally:
        for buffers, before in held:
            for name in set(dict(buffers)) - set(before):
                del buffers[name]
            for name, buffer in before.items():
                buffers[name] = buffer
