"""The networks that come with normlab, by name."""

from __future__ import annotations

from torch import nn

from normlab.registry import Registry

MODELS: Registry[nn.Module] = Registry("model")
