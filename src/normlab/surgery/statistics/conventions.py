"""Finds out how a layer that somebody else wrote averages its statistics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from normlab.errors import SpecError
from normlab.layers import BatchLayer
from normlab.layers.switch import Parts
from normlab.surgery.sites import Site
from normlab.surgery.statistics.borrow import Forward, by_batch, input_of, label, trusted
from normlab.surgery.statistics.kept import Kept, buffers_of, wide


def stored_ddof(site: Site, keeps: Kept, forward: Forward, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """0 or 1: what the layer subtracts from the number of values to divide by it, in the variance that it stores.

    Of a layer whose author is not known this is measured, on a batch and on the same batch twice.

    Raises:
        SpecError: `momentum` is not the weight of the newest batch in it.
    """
    module = site.module
    if isinstance(module, BatchLayer):
        own_way = isinstance(module, Parts) and module.variance == "official" and not module.using_in
        return int(module.stored_var == "unbiased" or own_way)
    return 1 if trusted(module) else _measured(site, keeps, forward, args, kwargs)


@torch.no_grad()
def _measured(site: Site, keeps: Kept, forward: Forward, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    found = [_newest(site, keeps, forward, args, kwargs, start) for start in (0.0, 1.0)]
    for name in keeps.statistics:
        zero, one = (values[name] for values in found)
        if not torch.allclose(zero, one, rtol=1e-3, atol=1e-6, equal_nan=True):
            raise SpecError(
                f"{label(site)} keeps part of its old {name} with momentum=1: there is no telling what is the newest. "
                "Its `momentum` should be the weight of the newest batch, as in torch"
            )
    x = input_of(site, args, kwargs)
    if keeps.var is None or x.shape[0] < 1:
        return 0
    twice = tuple(torch.cat([v, v]) if isinstance(v, Tensor) and len(v) == len(x) else v for v in args)
    doubled = _newest(site, keeps, forward, twice, kwargs, 0.0)[keeps.var].sum()
    n = x.numel() / found[0][keeps.var].numel()
    ratio = float(doubled / found[0][keeps.var].sum())
    return int(abs(ratio - 2 * (n - 1) / (2 * n - 1)) < abs(ratio - 1))


def _newest(
    site: Site, keeps: Kept, forward: Forward, args: tuple[Any, ...], kwargs: Mapping[str, Any], start: float
) -> dict[str, Tensor]:
    """The statistics of one batch, as they are stored by a layer that had `start` in its buffers."""
    with by_batch(site, 1.0):
        buffers = buffers_of(site.module, keeps)
        for buffer in buffers.values():
            buffer.fill_(start)
        forward(*(value.clone() if isinstance(value, Tensor) else value for value in args), **kwargs)
        return {name: wide(site.module.get_buffer(name)).clone() for name in buffers}
