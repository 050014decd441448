"""Where a model can be run, how it runs apart from other processes, and what is said where it does not run."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.nn.parameter import is_lazy

from normlab.errors import SpecError
from normlab.layers import BatchLayer
from normlab.surgery import Site, norm_type
from normlab.surgery.statistics.borrow import changed
from normlab.surgery.wrapped import unwrap


def usable_device(device: torch.device | str | None) -> torch.device | None:
    """The device of that name; None of None.

    Raises:
        SpecError: there is none, or none that works here.
    """
    if device is None:
        return None
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]  # the other sentences are about building torch
        raise SpecError(f"device {str(device)!r} cannot be used: {reason}") from None
    if found.type == "meta":
        raise SpecError("device 'meta' cannot be used: nothing is computed there")
    return found


def obstacle(model: nn.Module) -> str | None:
    """Why a model, inside what others put around it, cannot be run without a trace; None where it can."""
    first = next(model.parameters(), next(model.buffers(), None))
    if first is not None and first.device.type == "meta":
        return "the model is on the meta device, where nothing is computed"
    lazy = [name for name, value in model.named_parameters() if is_lazy(value)]
    if lazy:
        return f"{lazy[0]} has no shape yet, being lazy: run the model once before"
    try:
        unwrap(model)
    except SpecError as error:
        return f"the model cannot be run without a trace: {error}"
    return None


def failure_text(error: Exception, size: int, where: str = "") -> str:
    """What went wrong in a pass with so many examples, in one line: a smaller batch if memory ran out.

    Args:
        where: in front of what the model raised.
    """
    if is_out_of_memory(error):
        return f"out of memory with {size} examples" + (f"; try {size // 2}" if size > 1 else "")
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{where}{type(error).__name__}: {text}"


def is_out_of_memory(error: Exception) -> bool:
    """On whatever device."""
    texts = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(t in str(error).lower() for t in texts)


SMALL_MODEL, SMALL_BATCH = 30_000_000, 400_000


@contextmanager
def few_threads(parameters: int, values: int) -> Generator[None]:
    """While it lasts, small work is done by one thread: several wait for each other, for long on a busy CPU.

    Args:
        parameters: of the model. values: of a batch.
    """
    before = torch.get_num_threads()
    if parameters <= SMALL_MODEL and values <= SMALL_BATCH:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def alone(sites: Sequence[Site]) -> Generator[None]:
    """While it lasts, synchronized norms take the statistics of this process: the others may not run the same."""
    with ExitStack() as stack:
        for site in sites:
            if isinstance(site.module, BatchLayer):
                stack.enter_context(changed(site.module, {"sync": False}))
            elif isinstance(site.module, nn.SyncBatchNorm):
                stack.enter_context(changed(site.module, {"forward": _Local(site.module)}))
        yield


class _Local:
    """SyncBatchNorm's forward pass as BatchNorm's, and what a norm of timm does after it."""

    def __init__(self, module: nn.Module) -> None:
        known = norm_type(module)
        tail = known.tail if known is not None else ()
        self.module = module
        self.after = [part for name in tail if isinstance(part := getattr(module, name, None), nn.Module)]

    def __call__(self, x: Tensor) -> Tensor:
        y = _BatchNorm.forward(self.module, x)  # pyright: ignore[reportArgumentType]
        for part in self.after:
            y = part(y)
        return y
