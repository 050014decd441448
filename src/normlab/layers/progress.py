"""Layers that change as training goes on."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from torch import nn

from normlab.errors import SpecError, require


class FollowsProgress(ABC):
    """Base of layers that depend on how much of the training is done."""

    @abstractmethod
    def set_progress(self, t: float) -> None:
        """The share of training that is done, t in [0, 1]."""


class FollowsRate(ABC):
    """Base of layers with a step of their own, which keeps its ratio to the learning rate."""

    @abstractmethod
    def set_lr_share(self, share: float) -> None:
        """The learning rate now, as a share of the first one."""


def set_progress(model: nn.Module, t: float, *, lr_share: float | None = None) -> int:
    """Tell the layers that change as training goes on how far it is; call it before each step, or each epoch.

    Sparse Switchable Norm makes its radius t, so that it selects one normalizer by t = 0.82. Stochastic Whitening
    multiplies its alpha by `lr_share`, so that alpha / learning rate is constant. Other models stay as they are.

    Args:
        model: wrapped ones too (DDP, torch.compile).
        t: (steps done) / (steps of the whole training), in [0, 1].
        lr_share: learning rate now / learning rate at the start, >= 0; None takes the half cosine without restarts,
            (1 + cos πt) / 2, so give it with any other schedule.

    Returns:
        How many layers were told.

    Raises:
        SpecError: t or lr_share out of range.

    Source: Shao et al., arXiv:1903.03793, authors' code; Zhang et al., arXiv:2106.04413.
    """
    require(model, nn.Module, "set_progress takes a torch module, then t")
    require(t, (int, float), "set_progress takes t, a number between 0 and 1")
    if not 0 <= t <= 1:
        raise SpecError(f"set_progress: t={t} should be between 0, the start of training, and 1, its end")
    share = (1 + math.cos(math.pi * t)) / 2 if lr_share is None else lr_share
    if not 0 <= share < math.inf:
        raise SpecError(f"set_progress: lr_share={lr_share} should be learning rate now / at the start, 0 or more")
    told = 0
    for module in model.modules():
        if isinstance(module, FollowsProgress):
            module.set_progress(t)
        elif isinstance(module, FollowsRate):
            module.set_lr_share(share)
        else:
            continue
        told += 1
    return told
