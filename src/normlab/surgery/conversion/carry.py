"""What a layer of another type is given of the layer whose place it takes: arguments first, tensors then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_type_hints

import torch
from torch import Tensor, nn

from normlab.errors import SpecError
from normlab.functional.backends import stats_dtype
from normlab.layers import BatchLayer, Layer
from normlab.layers.running import BatchOptions
from normlab.surgery.known import NormType
from normlab.surgery.sites import norm_type

STATS = ("running_mean", "running_var", "num_batches_tracked")
_BY_TENSORS = {"affine", "bias", "running_var", "device", "dtype"}
_SHARED = {"num_groups", "one_value", *get_type_hints(BatchOptions)} - _BY_TENSORS
"""Arguments that mean the same in every layer of normlab, and are attributes of the same name."""


def width(module: nn.Module) -> int:
    """num_features of a norm.

    Raises:
        SpecError: it normalizes over several dimensions, or its width cannot be seen.
    """
    shape = getattr(module, "normalized_shape", None)
    if shape is not None and len(shape) > 1:
        raise SpecError(f"it normalizes over {len(shape)} dimensions, {list(shape)}, and not over features alone")
    candidates = [getattr(module, name, None) for name in ("num_features", "num_channels")]
    candidates += shape or ()
    candidates += [value.numel() for value in own_tensors(module).values() if value.dim() == 1]
    found = next((size for size in candidates if isinstance(size, int) and size > 0), None)
    if found is None:
        raise SpecError("its number of features cannot be seen: give it an attribute num_features")
    return found


def own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of the module itself, by name."""
    return dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))


def arguments(old: nn.Module, known: NormType) -> dict[str, Any]:
    """The arguments with which a layer of another type is most like `old`."""
    held = own_tensors(old)
    found: dict[str, Any] = {"affine": bool({known.weight, known.bias} & set(held)), "bias": known.bias in held}
    eps = getattr(old, known.eps, None)
    if eps is not None:
        found["eps"] = eps
    if hasattr(old, "momentum"):
        found["momentum"] = old.momentum
    if known.kind in ("batch", "instance"):
        found["track_running_stats"] = bool({"running_mean", "running_var"} & set(held))
    if isinstance(old, nn.GroupNorm):
        found["num_groups"] = old.num_groups
    if isinstance(old, nn.SyncBatchNorm):
        found["sync"] = True
    if isinstance(old, Layer):
        found |= {name: getattr(old, name) for name in sorted(_SHARED) if hasattr(old, name)}
    if isinstance(old, BatchLayer):
        found["running_var"] = old.stored_var
    return found


def own_arguments(old: Layer, names: set[str]) -> dict[str, Any]:
    """Those of these arguments of its own class that `old` keeps as attributes."""
    return {name: vars(old)[name] for name in names if name in vars(old)}


@dataclass(frozen=True)
class Handover:
    """Which tensors a layer got from the one before, by name.

    Args:
        kept: the name in the old layer, and in the new one; copied: those of them that are other tensors.
        dropped: what the old layer had besides; added: what the new layer has besides.
        remarks: what became of values that could not be handed over as they are.
    """

    kept: dict[str, str]
    copied: frozenset[str]
    dropped: dict[str, Tensor]
    added: dict[str, Tensor]
    remarks: tuple[str, ...]


def hand_over(old: nn.Module, new: nn.Module, known: NormType, fresh: frozenset[str]) -> Handover:
    """Give `new` the very tensors of `old` where name, shape and meaning agree; `old` is not changed.

    Args:
        fresh: arguments whose tensors `new` should keep its own of: "scale", the weight.
    """
    before, places, remarks, got = named_tensors(old), named_tensors(new), list[str](), dict[str, str]()
    for source, name in _pairs(old, new, known, fresh).items():
        if name in places and places[name].shape == before[source].shape:
            put(new, name, _fitting(before[source], places[name], old, new, remarks))
            got[source] = name
    return settle(old, new, before, got, tuple(dict.fromkeys(remarks)))


def settle(
    old: nn.Module, new: nn.Module, before: dict[str, Tensor], got: dict[str, str], remarks: tuple[str, ...]
) -> Handover:
    """What was handed over; what is new is trained if the first parameter of the old layer, its weight, is."""
    now = named_tensors(new)
    added = {name: value for name, value in now.items() if name not in got.values()}
    trained = next((p.requires_grad for p in old.parameters()), True)
    for value in added.values():
        if isinstance(value, nn.Parameter):
            value.requires_grad_(trained)
    copied = frozenset(source for source, name in got.items() if now[name] is not before[source])
    dropped = {name: value for name, value in before.items() if name not in got}
    return Handover(got, copied, dropped, added, remarks)


def _pairs(old: nn.Module, new: nn.Module, known: NormType, fresh: frozenset[str]) -> dict[str, str]:
    """Name in `old` to name in `new`, of the tensors that mean the same."""
    own, had = norm_type(new), named_tensors(old)
    if own is None:
        return {}
    pairs = {known.weight: own.weight, known.bias: own.bias}
    if own.kind == known.kind and known.kind in ("batch", "instance"):
        pairs |= {name: name for name in STATS}
    if type(new) is type(old):
        pairs |= {name: name for name in had}
    if "scale" in fresh:
        del pairs[known.weight]
    return {source: name for source, name in pairs.items() if source in had}


def _fitting(value: Tensor, place: Tensor, old: nn.Module, new: nn.Module, remarks: list[str]) -> Tensor:
    """`value` itself, or what stands for it where the new layer needs another kind of tensor."""
    if isinstance(place, nn.Parameter) != isinstance(value, nn.Parameter):
        copy, trained = value.detach().clone(), isinstance(place, nn.Parameter)
        remarks.append(
            "frozen values become parameters, which are trained" if trained else "parameters become frozen values"
        )
        return nn.Parameter(copy) if trained else copy
    known = norm_type(old)
    if known is not None and known.frozen:
        return value.detach().clone()  # nothing moves a frozen layer's values, also not another layer that learns
    ours = isinstance(new, Layer), isinstance(old, Layer)
    if ours[0] == ours[1] or isinstance(value, nn.Parameter) or not value.is_floating_point():
        return value
    dtype = stats_dtype(value.dtype) if isinstance(new, Layer) else place.dtype
    if dtype != value.dtype:
        remarks.append(f"statistics from {_short(value.dtype)} to {_short(dtype)}")
    return value.to(dtype)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of a module and its parts, but for what follows the norm."""
    known = norm_type(module)
    outside = (*(() if known is None else known.tail), *getattr(module, "_tail", ()))
    every = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    return {name: value for name, value in every if name.partition(".")[0] not in outside}


def put(module: nn.Module, name: str, value: Tensor | None) -> None:
    """Hold `value` under a name that may have dots, as a parameter or a buffer, whichever the module has there."""
    path, _, last = name.rpartition(".")
    owner = module.get_submodule(path)
    slots = vars(owner)["_parameters" if last in vars(owner)["_parameters"] else "_buffers"]
    slots[last] = value
