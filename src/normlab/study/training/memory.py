"""Too little memory: an error that says what would fit."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch

from normlab.errors import SpecError

_SIGNS = ("can't allocate memory", "CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Is it what torch raises when a device, or the machine, has no memory left?"""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


@contextmanager
def explained(device: str, text: Callable[[], str]) -> Generator[None, None, None]:
    """Turn a lack of memory inside into a SpecError; `text` is called when what was held inside has been freed."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # their local variables hold the batch and its activations
        _release()
        raise SpecError(f"too little memory for {text()}: {_room(device)}") from error


def largest_that_fits(attempt: Callable[[int], None], batch_size: int) -> int:
    """The largest of `batch_size` / 2, / 4, ... that `attempt` gets through with; 0 where not even one example does."""
    size = batch_size // 2
    while size > 0:
        try:
            attempt(size)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)
            size //= 2
        else:
            return size
        _release()
    return 0


def batch_text(batch_size: int, fits: int) -> str:
    """What did not fit, and what does."""
    if fits == 0:
        return f"train.batch_size = {batch_size}, and for a batch of 1: take smaller images or a smaller network"
    return f"train.batch_size = {batch_size}; {fits} fits (--set train.batch_size={fits}, which gives other numbers)"


def _release() -> None:
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _room(device: str) -> str:
    """`the NVIDIA H200 has 139.7 GiB, 12.1 GiB of it taken by others`, or that of the machine."""
    if torch.device(device).type != "cuda":
        return "the machine has no more"
    free, total = torch.cuda.mem_get_info(device)
    others = total - free - torch.cuda.memory_reserved(device)
    taken = f", {others / 2**30:.1f} GiB of it taken by others" if others > total / 20 else ""
    half = "; precision = 'bf16' takes about half"
    return f"the {torch.cuda.get_device_name(device)} has {total / 2**30:.1f} GiB{taken}{half}"
