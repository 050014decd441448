"""Batch norms that FSDP2 computes in half precision, next to statistics in float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from normlab.doctor.base import Evidence, rule
from normlab.doctor.case import Case
from normlab.doctor.layers import count, names
from normlab.surgery import Site


@rule(
    "NL023",
    "sharded-in-half",
    kind="static",
    level="error",
    why="fully_shard casts weight and bias to the policy's type and leaves the running statistics as they are: the "
    "first forward pass raises that it expected running_mean to have another type",
    fix='normlab.convert(model, "batch"), then fully_shard; or shard each norm first, with a policy of float32',
    thread="pytorch/torchtitan#674",
)
def sharded_in_half(case: Case) -> Evidence | None:
    """The policy of the nearest sharded module, and the type of the statistics."""
    types = {site.name: _mixed(case.model, site) for site in case.sites}
    found = [site for site in case.sites if types[site.name] is not None]
    if not found:
        return None
    dtype = str(types[found[0].name]).removeprefix("torch.")
    text = f"FSDP casts {count(len(found))} of type {type(found[0].module).__name__} to {dtype}, but not their running "
    return Evidence(f"{text}statistics", names(found), {"layers": len(found), "dtype": dtype})


def _mixed(model: nn.Module, site: Site) -> torch.dtype | None:
    """The type of the layer's weight as it runs, if it is another one than that of its statistics."""
    mean = getattr(site.module, "running_mean", None)
    if not (isinstance(site.module, _BatchNorm) and site.module.affine and isinstance(mean, torch.Tensor)):
        return None
    path = site.name.split(".") if site.name else []
    above: list[Any] = [model.get_submodule(".".join(path[:n])) for n in range(len(path), -1, -1)]
    policy: Any = next((module._get_fsdp_state()._mp_policy for module in above if _is_sharded(module)), None)
    dtype = None if policy is None else policy.param_dtype
    return None if dtype in (None, mean.dtype) else dtype


def _is_sharded(module: Any) -> bool:
    name = "torch.distributed.fsdp.FSDPModule"
    return any(f"{cls.__module__}.{cls.__name__}" == name for cls in type(module).__mro__)
