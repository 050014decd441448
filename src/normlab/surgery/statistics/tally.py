"""Statistics of all that one layer is called with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from normlab.errors import NotFinite, SpecError
from normlab.layers import BatchLayer, GhostBatchNorm
from normlab.surgery.sites import Site
from normlab.surgery.statistics.borrow import Forward, by_batch, input_of, label
from normlab.surgery.statistics.conventions import stored_ddof
from normlab.surgery.statistics.kept import Kept, buffers_of, pool, to_store, wide

_MEAN = "mean of the input"


class Tally:
    """What a layer stores for each batch, read off after a training pass whose batch has weight 1, and pooled.

    A layer whose statistics are not those of a batch alone is given those of its input: SyncBatchNorm, which waits for
    other processes, and ghost batches, of which it keeps an average.

    Args:
        site, keeps: the layer, and what it keeps.
    """

    def __init__(self, site: Site, keeps: Kept) -> None:
        self.site, self.own = site, keeps
        no_mean = keeps.var is not None and keeps.mean is None
        self.keeps = replace(keeps, mean=_MEAN) if no_mean else keeps
        found = buffers_of(site.module, keeps)
        if no_mean and keeps.var is not None:
            found[_MEAN] = found[keeps.var]
        self.values = {name: torch.zeros_like(wide(found[name])) for name in self.keeps.statistics}
        like = self.values[self.keeps.statistics[0]]
        self._channels = like.numel()
        self.weight, self.batches = like.new_zeros(()), like.new_zeros(())
        self._ddof: int | None = None

    def call(self, forward: Forward, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Run the layer on a batch, and count it."""
        module, x = self.site.module, input_of(self.site, args, kwargs).detach()
        if not x.numel():
            raise SpecError(f"{label(self.site)} got an input {list(x.shape)}: leave empty batches out")
        if self._ddof is None:
            self._ddof = stored_ddof(self.site, self.own, forward, args, kwargs)
        with by_batch(self.site, 1.0, sync=False):
            if _goes_by_running(module, x):  # which are not to be zero then
                return forward(*args, **kwargs)
            held = dict(module.named_buffers(recurse=False))
            for name in (*self.own.statistics, self.own.counter):
                if name is not None:
                    held[name].zero_()
            if isinstance(module, nn.SyncBatchNorm):  # which then normalizes by this batch, and waits for nobody
                module.training, module.running_mean, module.running_var = False, None, None
                held["num_batches_tracked"].fill_(1)
            y = forward(*args, **kwargs)
            self._add(x, dict(module.named_buffers(recurse=False)))
        return y

    def _add(self, x: Tensor, stored: Mapping[str, Tensor]) -> None:
        module, keeps = self.site.module, self.keeps
        of_input = isinstance(module, (nn.SyncBatchNorm, GhostBatchNorm))
        newest = {} if of_input else {name: wide(stored[name]) for name in self.own.statistics}
        n = x.numel() // self._channels
        if keeps.var is not None and not of_input:
            newest[keeps.var] = newest[keeps.var] * ((n - (self._ddof or 0)) / n)
        if (of_input or keeps.mean == _MEAN) and keeps.mean is not None and keeps.var is not None:
            var, mean = _moments(x)
            newest = {keeps.var: var, keeps.mean: mean} | newest
        batches = self.weight.new_ones(()) if keeps.counter is None else wide(stored[keeps.counter])
        weight = torch.full_like(self.weight, x.shape[0] if self.site.kind == "instance" else n)
        if isinstance(module, BatchLayer):  # it may have left a batch out that is not finite
            weight = weight * (batches > 0)
        self._pool([(self.weight, self.batches, self.values), (weight, batches, newest)])

    def _pool(self, parts: list[tuple[Tensor, Tensor, dict[str, Tensor]]]) -> None:
        weights = torch.stack([weight for weight, _, _ in parts])
        self.values = pool(self.keeps, [values for _, _, values in parts], weights)
        self.weight = weights.sum()
        self.batches = torch.stack([batches for _, batches, _ in parts]).sum()

    def row(self) -> Tensor:
        """All numbers, [k]."""
        values = [self.values[name].flatten() for name in self.keeps.statistics]
        return torch.cat([self.weight[None], self.batches[None], *values])

    def take(self, rows: Tensor) -> None:
        """Become the tally of all processes, from the rows [processes, k] of each."""
        shapes = {name: self.values[name].shape for name in self.keeps.statistics}
        parts: list[tuple[Tensor, Tensor, dict[str, Tensor]]] = []
        for row in rows:
            flat = row[2:].split([shape.numel() for shape in shapes.values()])
            values = {name: v.reshape(shape) for (name, shape), v in zip(shapes.items(), flat, strict=True)}
            parts.append((row[0], row[1], values))
        self._pool(parts)

    def check(self) -> None:
        """Refuse statistics that are not finite.

        Raises:
            NotFinite: names the layer.
        """
        if not all(bool(value.isfinite().all()) for value in self.values.values()):
            raise NotFinite(
                f"the statistics of {label(self.site)} are not finite: there are NaN or infinite values in its input. "
                "Leave such batches out, or find the layer before it that makes them"
            )

    @torch.no_grad()
    def write(self) -> None:
        """Give the layer what was counted, if anything was."""
        module, counter = self.site.module, None
        if not self.weight:
            return
        if self.own.counter is not None:
            counter = module.get_buffer(self.own.counter)
            counter.add_(self.batches.to(counter))
        for name, value in to_store(self.own, self.values, counter).items():
            module.get_buffer(name).copy_(value)


def _goes_by_running(module: nn.Module, x: Tensor) -> bool:
    """Has this batch one value per channel, for which the layer takes its running statistics (`batch1`)?"""
    if not isinstance(module, BatchLayer) or module.batch1 != "running":
        return False
    examples = min(module.ghost_size, len(x)) if isinstance(module, GhostBatchNorm) else len(x)
    return not module.takes_batch(x.shape, examples * x.shape[2:].numel())


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Biased variance and mean of each channel, in float64."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    var, mean = torch.var_mean(x, [dim for dim in range(x.dim()) if dim != 1], correction=0)
    return wide(var), wide(mean)
