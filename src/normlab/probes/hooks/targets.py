"""Which layers of a model are measured, and which models can be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from normlab.errors import SpecError, UnknownName, came, require
from normlab.layers.convolution import Convolution
from normlab.probes.base import Target
from normlab.surgery import norm_type
from normlab.surgery.statistics.borrow import require_shapes
from normlab.surgery.wrapped import is_compiled, is_named, is_optimized

Where = str | Sequence[str] | Callable[[str, nn.Module], bool]

_WITHOUT_HOOKS = {
    "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel": "its parameters are shards",
    "torch.distributed.fsdp.FSDPModule": "its parameters are shards",
    "torch.jit._script.ScriptModule": "its layers are compiled into one graph, which calls no hooks",
}


def inner_model(model: nn.Module, *, eager: bool) -> nn.Module:
    """The model inside DistributedDataParallel, DataParallel, and torch.compile where its measured steps run eagerly.

    Raises:
        SpecError: no module; one whose layers call no hooks, or have no shapes yet.
    """
    require(model, nn.Module, "probe takes a torch module")
    compiled = is_compiled(model)
    while isinstance(model, (DataParallel, DistributedDataParallel)) or is_optimized(model):
        if isinstance(model, DataParallel) and len(model.device_ids) > 1:
            raise SpecError(
                f"DataParallel runs copies of the model on {len(model.device_ids)} devices, in threads: use one, or "
                "DistributedDataParallel"
            )
        held = model._orig_mod if is_optimized(model) else model.module
        assert isinstance(held, nn.Module)
        model = held
    for name, module in model.named_modules():
        reason = next((why for cls, why in _WITHOUT_HOOKS.items() if is_named(module, cls)), None)
        if reason is not None:
            raise SpecError(f"{name or 'the model'} is a {type(module).__name__}, which cannot be probed: {reason}")
    if compiled and not eager:
        raise SpecError(
            "the model is compiled, and compiled code calls no hooks. probe(..., eager=True) runs the measured steps "
            "uncompiled, which rounds otherwise; or probe the model before you compile it"
        )
    require_shapes(model)
    return model


def find_targets(model: nn.Module, where: Where | None) -> list[Target]:
    """The layers to measure at, shared ones once.

    Args:
        where: names or patterns such as `layer4.*.conv2`, or a function of name and module; None for all normalization
            layers, and convolutions with a normalized kernel.

    Raises:
        UnknownName: a pattern that no layer's name matches.
        SpecError: there are none.
    """
    every = [Target(name, module, norm_type(module)) for name, module in model.named_modules()]
    _check_where(where)
    if where is None:
        chosen = [at for at in every if at.norm is not None or isinstance(at.module, Convolution)]
    elif callable(where):
        chosen = [at for at in every if where(at.name, at.module)]
    else:
        chosen = _matching(every, [where] if isinstance(where, str) else where)
    if not chosen:
        raise SpecError(
            f"{type(model).__name__} has no normalization layer to probe; where='features.*' names others, or "
            "register_norm_type makes a class known"
            if where is None
            else f"where={where!r} chooses none of the {len(every)} modules of {type(model).__name__}"
        )
    return chosen


def _check_where(where: object) -> None:
    patterns = isinstance(where, Sequence) and all(isinstance(pattern, str) for pattern in where)  # pyright: ignore[reportUnknownVariableType]
    function = callable(where) and not isinstance(where, (nn.Module, type))
    if not (where is None or patterns or function):
        raise SpecError(f"where takes names, patterns, or a function of name and module; got {came(where)}")


def _matching(every: list[Target], patterns: Sequence[str]) -> list[Target]:
    for pattern in patterns:
        if not any(fnmatchcase(at.name, pattern) for at in every):
            raise UnknownName("layer", pattern, [at.name for at in every])
    return [at for at in every if any(fnmatchcase(at.name, pattern) for pattern in patterns)]
