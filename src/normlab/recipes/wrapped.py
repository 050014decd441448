"""Models inside what others put around them."""

from __future__ import annotations

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from normlab.errors import SpecError, require
from normlab.surgery.wrapped import is_optimized


def bare(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel, DataParallel and torch.compile's wrapper, whose parameters it shares.

    `surgery.unwrap` is stricter: what may be trained may not always be changed.
    """
    require(model, nn.Module, "a torch module is wanted")
    while True:
        inner = model.module if isinstance(model, (DistributedDataParallel, DataParallel)) else None
        inner = getattr(model, "_orig_mod", None) if inner is None and is_optimized(model) else inner
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def plain_name(name: str) -> str:
    """A module's name without what torch.compile and FSDP put into it."""
    return name.replace("_orig_mod.", "").replace("_fsdp_wrapped_module.", "")


def check_whole(model: nn.Module) -> None:
    """Refuse to sort parameters that a wrapper has joined into flat ones, which have no role.

    Raises:
        SpecError: says what would do.
    """
    if any(type(parameter).__name__ == "FlatParameter" for parameter in model.parameters()):
        raise SpecError(
            "FullyShardedDataParallel has joined these parameters into flat ones, so that scales and weights cannot be "
            "told apart: use_orig_params=True keeps them, and so does fully_shard"
        )
