"""Layers whose statistics come from the batch in training, and from a running average of them in eval mode."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, TypedDict, get_args

import torch
import torch.distributed as dist
from torch import Tensor

from normlab import functional as F
from normlab.errors import SpecError
from normlab.functional import Moments
from normlab.functional.normalize import Activation
from normlab.layers.base import Layer, Options, among
from normlab.layers.circumstances import check_writable, in_backward

Convention = Literal["torch", "keep"]
StoredVar = Literal["unbiased", "biased"]
Batch1 = Literal["error", "running"]


class AveragingOptions(TypedDict, total=False):
    """How running statistics are kept; torch's way is the default.

    momentum_convention: "torch": running ← (1 - momentum)·running + momentum·newest; "keep": momentum is what is kept.
    running_var: which variance is stored, "unbiased" (torch) or "biased".
    running_init: first running mean and variance.
    debias: in eval mode take the part of `running_init` out of the running average, as Adam does with its moments.
    guard_nonfinite: a batch with NaN or infinity in its statistics leaves the running ones alone.
    """

    momentum_convention: Convention
    running_var: StoredVar
    running_init: tuple[float, float]
    debias: bool
    guard_nonfinite: bool


class RunningOptions(AveragingOptions, total=False):
    """How the statistics of the batch are taken and kept.

    batch1: one value per channel in training is an "error", or is normalized by the "running" statistics.
    sync: statistics over the batches of all processes of `process_group`, an attribute; None is the default group.
    """

    batch1: Batch1
    sync: bool


class BatchOptions(Options, RunningOptions, total=False):
    """Arguments that every layer with batch statistics takes.

    momentum: weight of the newest batch in the running statistics; None averages all batches equally.
    track_running_stats: keep running statistics and normalize by them in eval mode.
    """

    momentum: float | None
    track_running_stats: bool


class BatchLayer(Layer):
    """What layers with batch statistics share.

    The running statistics are never updated in a forward pass inside a backward one: that is activation checkpointing
    at work, and the batch has been counted.
    """

    TRACKED: ClassVar[tuple[str, ...]] = ("running_mean", "running_var")

    _version = 2  # of the state dict, as torch's: from 2 on there is a counter

    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int,
        *,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        bias: bool = True,
        activation: Activation | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        scale: float = 1.0,
        momentum_convention: Convention = "torch",
        running_var: StoredVar = "unbiased",
        running_init: tuple[float, float] = (0.0, 1.0),
        debias: bool = False,
        guard_nonfinite: bool = False,
        batch1: Batch1 = "error",
        sync: bool = False,
    ) -> None:
        super().__init__(
            num_features,
            eps=eps,
            affine=affine,
            bias=bias,
            activation=activation,
            device=device,
            dtype=dtype,
            scale=scale,
        )
        among("momentum_convention", momentum_convention, get_args(Convention))
        among("running_var", running_var, get_args(StoredVar))
        among("batch1", batch1, get_args(Batch1))
        if running_init[1] < 0:
            raise SpecError(f"running_init={running_init} should be a mean and a variance, which is not negative")
        if batch1 == "running" and not track_running_stats:
            raise SpecError("batch1='running' needs running statistics: track_running_stats=True")
        self.momentum, self.momentum_convention = momentum, momentum_convention
        self.track_running_stats, self.stored_var, self.running_init = track_running_stats, running_var, running_init
        self.debias, self.guard_nonfinite, self.batch1, self.sync = debias, guard_nonfinite, batch1, sync
        self.process_group: dist.ProcessGroup | None = None
        for name in self.TRACKED:
            first = running_init[0] if name == "running_mean" else running_init[1]
            self.add_buffer(name, (num_features,), first, present=track_running_stats)
        count = torch.tensor(0, device=device) if track_running_stats else None
        self.register_buffer("num_batches_tracked", count)
        self._start("num_batches_tracked", 0)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *rest: Any
    ):
        key, version = f"{prefix}num_batches_tracked", local_metadata.get("version")
        if self.num_batches_tracked is not None and (version is None or version < 2) and key not in state_dict:
            state_dict[key] = torch.tensor(0)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)

    def reset_running_stats(self) -> None:
        """Put the running statistics back to what a new layer has: no batches seen."""
        for name in (*self.TRACKED, "num_batches_tracked"):
            value = getattr(self, name)
            if value is not None:
                value.fill_(self._initial[name])

    def takes_batch(self, size: torch.Size, values: int | Tensor) -> bool:
        """Are the statistics those of the batch? Otherwise they are the running ones.

        Args:
            size: of the input, for the message.
            values: how many there are in each channel.

        Raises:
            SpecError: they should be, and there is one value per channel, whose variance is 0.
        """
        if not self.training and self.track_running_stats:
            return False
        if values != 1 or self.sync:
            return True
        if self.batch1 == "running":
            return False
        raise SpecError(
            f"Expected more than 1 value per channel when training, got input size {size}: its variance is 0. "
            "Use larger batches (drop_last=True in the DataLoader drops a last batch of one), batch1='running', eval "
            "mode, or a norm that needs no batch, such as GroupNorm."
        )

    def pools_batch(self, m: Moments) -> bool:
        """Are all of m to be pooled to the statistics of the batch? See `takes_batch`."""
        return self.takes_batch(m.size, m.shape[0] * m.count)

    def batch_moments(self, m: Moments) -> Moments:
        """Moments [1, C] to normalize by: of this batch, which are then averaged in, or the running ones."""
        if not self.pools_batch(m):
            return self.running_moments()
        pooled = F.pool_batch(m, self.group())
        self.update_moments(pooled)
        return pooled

    def running_moments(self) -> Moments:
        """Running mean and variance, [1, C]."""
        return Moments(self.running("running_mean")[None], self.running("running_var")[None], 0)

    def running(self, name: str) -> Tensor:
        """One running statistic [C]; without the part of its initial value, if `debias`."""
        value: Tensor = getattr(self, name)
        if not self.debias or self.momentum is None or self.num_batches_tracked is None:
            return value
        first = float(self._initial[name])  # pyright: ignore[reportArgumentType]
        left = (1 - self.newest_share()) ** self.num_batches_tracked.to(value.dtype)
        return torch.where(left == 1, value, (value - left * first) / (1 - left))

    def update_moments(self, pooled: Moments) -> None:
        """Average the moments [1, C] of a batch into the running ones."""
        self.update(running_mean=pooled.mean, running_var=self.to_store(pooled))

    def to_store(self, m: Moments) -> Tensor:
        """The variance as the running one has it: unbiased or not."""
        return F.unbiased(m.detach(), 1 if self.stored_var == "unbiased" else 0)

    @torch.no_grad()
    def update(self, *, batches: int = 1, **newest: Tensor) -> None:
        """Average the statistics of a batch into the running ones of the same names, and count it; in training only.

        Args:
            batches: how many the statistics stand for, where a batch is more than one.
            newest: [C] or [1, C] each.
        """
        count = self.num_batches_tracked
        if count is None or not self.training or in_backward():
            return
        check_writable(count, *newest.values())
        fine = (
            torch.cat([value.flatten() for value in newest.values()]).isfinite().all() if self.guard_nonfinite else None
        )
        count.add_(batches if fine is None else batches * fine)
        for name, value in newest.items():
            old: Tensor = getattr(self, name)
            equal = self.momentum is None
            share = batches / count.to(old.dtype) if equal else 1 - (1 - self.newest_share()) ** batches
            new = value.reshape(old.shape).to(old.dtype)
            # not lerp_, which vmap warns of
            old.copy_(torch.lerp(old, new if fine is None else torch.where(fine, new, old), share))

    def newest_share(self) -> float:
        """Weight of the newest batch, in either convention."""
        assert self.momentum is not None
        return self.momentum if self.momentum_convention == "torch" else 1 - self.momentum

    def group(self) -> dist.ProcessGroup | None:
        """The processes to pool over; None for this one alone.

        Raises:
            SpecError: `sync` without an initialized process group.
        """
        if not self.sync:
            return None
        if not (dist.is_available() and dist.is_initialized()):
            raise SpecError("sync=True pools over processes: call torch.distributed.init_process_group first")
        group = self.process_group or dist.group.WORLD
        return None if dist.get_world_size(group) == 1 else group
