"""Small models with norms, and data, that several tests share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normlab.errors import Unavailable
from normlab.layers import NORMS
from normlab.study.models import import_timm
from normlab.surgery import register_norm_type

SPECS = [
    "attentive(num_affine=3)",
    "batch",
    "batch(debias=True)",
    "batch(formulation='a2')",
    "batch(guard_nonfinite=True)",
    "batch(momentum=None)",
    "batch(momentum=0.8, momentum_convention='keep')",
    "batch(running_var='biased')",
    "batch_renorm",
    "bnet",
    "equilibrium",
    "evo_b0",
    "ghost(ghost_size=2)",
    "iebn",
    "iebn_minus",
    "instance(affine=True, track_running_stats=True)",
    "lp",
    "lp(centred=True)",
    "lp(p=1.0)",
    "lp(p='inf')",
    "mean_only",
    "noisy",
    "rbn",
    "rbn_minus",
    "sparse_switch",
    "switch",
    "switch(moving_average=False)",
    "switch(variance='official')",
    "variance",
    "whitening",
]
"""Every norm of ours that keeps running statistics, and options that bear on how."""

NOT_POOLED = ("equilibrium", "lp(centred=True)", "lp(p='inf')", "lp(p=1.0)")
"""Those of which not all statistics of a whole follow from those of its parts."""


def norm(spec: str, channels: int = 4) -> nn.Module:
    """A norm in float64, with parameters that are not the initial ones."""
    layer = NORMS.create(spec, num_features=channels, dtype=torch.float64)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.2 * torch.rand_like(parameter))
    return layer


def data(*sizes: int, channels: int = 4) -> list[Tensor]:
    """Batches whose means differ, far from 0."""
    return [torch.randn(n, channels, 5, 4, dtype=torch.float64) * (1 + i) + 3 * i + 2 for i, n in enumerate(sizes)]


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def assert_state(model: nn.Module, before: dict[str, Tensor], *, atol: float = 0.0) -> None:
    """Equal to the bit, or nearly; NaN equals NaN."""
    now = model.state_dict()
    assert now.keys() == before.keys()
    for name, value in before.items():
        torch.testing.assert_close(
            now[name], value, rtol=0, atol=atol, equal_nan=True, msg=lambda text, n=name: f"{n}: {text}"
        )


def timm() -> Any:
    """The package; the test is skipped where it is not installed."""
    try:
        return import_timm()
    except Unavailable as error:
        pytest.skip(str(error))


class Biased(nn.Module):
    """Keeps the biased variance, and no counter."""

    def __init__(self, momentum=0.1, keep=False):
        super().__init__()
        self.momentum, self.keep = momentum, keep
        self.register_buffer("running_mean", torch.zeros(4))
        self.register_buffer("running_var", torch.ones(4))

    def forward(self, x):
        if not self.training:
            return (x - self.running_mean[:, None, None]) / self.running_var[:, None, None].sqrt()
        var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        share = 1 - self.momentum if self.keep else self.momentum
        self.running_mean = self.running_mean * (1 - share) + share * mean
        self.running_var = self.running_var * (1 - share) + share * var
        return (x - mean[:, None, None]) / var[:, None, None].sqrt()


register_norm_type(Biased, kind="batch")


def moments(batches, channels=1):
    whole = torch.cat(batches).movedim(channels, 0).flatten(1)
    var, mean = torch.var_mean(whole, 1, correction=0)
    return mean, var
