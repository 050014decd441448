"""Which models can be operated on: wrappers are taken off where that is safe, and refused with the reason elsewhere."""

from __future__ import annotations

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from normlab.errors import SpecError, require

_COMPILED = "torch._dynamo.eval_frame.OptimizedModule"
_FULLY_SHARDED = (
    "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel",
    "torch.distributed.fsdp.FSDPModule",
)


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside DataParallel and torch.compile, which take up whatever is changed inside them.

    Raises:
        SpecError: not a module; or it is, or holds, one whose layers cannot be exchanged: the message says why.
    """
    require(model, nn.Module, "surgery takes a torch module")
    while isinstance(model, DataParallel) or is_optimized(model):
        inner = model.module if isinstance(model, DataParallel) else model._orig_mod
        assert isinstance(inner, nn.Module)
        model = inner
    for name, module in model.named_modules():
        reason = _reason(module)
        if reason is not None:
            raise SpecError(f"{name or 'the model'} is a {type(module).__name__}: {reason}")
    return model


def is_optimized(module: nn.Module) -> bool:
    """Is it what torch.compile puts around a model?"""
    return is_named(module, _COMPILED)


def is_compiled(model: nn.Module) -> bool:
    """Is the model, or part of it, compiled by torch.compile or its own `compile`?"""
    return any(is_optimized(m) or getattr(m, "_compiled_call_impl", None) is not None for m in model.modules())


def is_named(module: nn.Module, *names: str) -> bool:
    """Is its class, or one that it derives from, of one of these names? Nothing is imported to find out."""
    return any(f"{cls.__module__}.{cls.__qualname__}" in names for cls in type(module).__mro__)


def _reason(module: nn.Module) -> str | None:
    if isinstance(module, DistributedDataParallel):
        return "it has planned its communication for the parameters it holds. Do this to model.module, and wrap that"
    if is_named(module, *_FULLY_SHARDED):
        return "its parameters are shards in buckets. Convert the model first, then shard it"
    if is_named(module, "torch.jit._script.ScriptModule", "torch.jit._script.RecursiveScriptModule"):
        return "its layers are compiled into one graph. Convert the Python model first, then script it"
    if type(module).__module__.startswith("torch.ao.nn."):
        return "quantised layers have their norms folded in. Convert the model first, then quantise it"
    return None
