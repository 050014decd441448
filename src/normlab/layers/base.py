"""What all layers share: the registry, and the door to it."""

from __future__ import annotations

from typing import Any

from torch import nn

from normlab.registry import Registry

NORMS: Registry[nn.Module] = Registry("norm")


def create(spec: str, *, num_features: int, **options: Any) -> nn.Module:
    """Build a layer: `create("batch(scale=0.1)", num_features=64)`.

    Args:
        spec: a registered name, or `name(key=value, ...)`.
        num_features: C, the number of channels.
        options: further arguments of the layer, such as device and dtype.

    Raises:
        UnknownName: no such layer, or it takes no such argument.
    """
    return NORMS.create(spec, num_features=num_features, **options)
