"""What is compared: a normalizer, as it changes a network and starts it anew."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from normlab.errors import UnknownName
from normlab.layers import CONVS, NORMS
from normlab.recipes.fan_in import init_fan_in
from normlab.recipes.prepare import plan_scales, set_scales
from normlab.registry import parse
from normlab.seeding import Streams
from normlab.surgery import convert, norm_sites, register_norm_type

NONE = "none"

DEFAULT = (
    "batch",
    "group(num_groups=2, lower=True)",
    "group(num_groups=8, lower=True)",
    "group(num_groups=32, lower=True)",
    "layer",
    "instance",
    "frn",
    "switch",
    "iebn",
    "rbn",
    "variance",
    "evo_b0",
    "evo_s0(num_groups=8)",
    "weight_norm",
    "weight_standardized",
    "scaled_weight_standardized",
    NONE,
)
"""Screened unless others are named."""


class Affine(nn.Module):
    """γ x + β per channel: what is left of a normalization layer that does not normalize.

    Args:
        num_features: C, the size of dimension 1.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift x [N, C, *S]."""
        shape = (-1,) + (1,) * (x.dim() - 2)
        return x * self.weight.view(shape) + self.bias.view(shape)


register_norm_type(Affine, kind="other")  # so that it is put where features are the last dimension, too


def check(spec: str) -> str:
    """The spec, if it names a candidate.

    Raises:
        UnknownName: no such normalizer, or it takes no such argument.
    """
    name = parse(spec, kind="norm").name
    if name == NONE:
        return spec.strip()
    if name not in NORMS and name not in CONVS:
        raise UnknownName("norm", name, [*NORMS, *CONVS, NONE])
    given = ("num_features",) if name in NORMS else ("in_channels", "out_channels", "kernel_size")
    (NORMS if name in NORMS else CONVS).parse(spec, given=given)
    return spec.strip()


def put(model: nn.Module, spec: str, streams: Streams) -> nn.Module:
    """Put a candidate into a model, in place, and draw its initial values.

    A normalizer takes the place of the layers that `convert` chooses. A convolution with a normalized kernel works
    without them, as its authors mean it: every convolution is converted, and of the norms remain scale and shift, as
    they do for "none".

    Weights of convolutions and fully connected layers are drawn from N(0, 2 / fan_in) and U(-√(6 / fan_in), ...), by
    `recipes.init_fan_in`: each from a stream keyed by its name, so that all candidates start from the same numbers.
    Scales start at 1, but those that the model starts at 0; shifts at 0.

    Returns:
        The model, or its new root.

    Raises:
        SpecError: it cannot be converted; why.
    """
    _restart(model)
    model = replace(model, spec, streams)
    init_fan_in(model, streams)
    return model


def replace(model: nn.Module, spec: str, streams: Streams) -> nn.Module:
    """Put a candidate into a model, in place, and leave all other values alone; see `put`.

    Returns:
        The model, or its new root.

    Raises:
        SpecError: it cannot be converted; why.
    """
    name = parse(spec, kind="norm").name
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(streams.integer("init", "convert"))  # for layers that draw values of their own
        if name in NORMS:
            return convert(model, spec).model
        if norm_sites(model):
            model = convert(model, Affine, where=lambda site: site.kind == "batch" or not _has_batch(model)).model
        return convert(model, spec).model if name in CONVS else model


def _has_batch(model: nn.Module) -> bool:
    return any(site.kind == "batch" for site in norm_sites(model))


def _restart(model: nn.Module) -> None:
    """Forget what training has made of the norms."""
    if norm_sites(model):
        set_scales(model, 1.0, plan_scales(model, "keep", "all"), "all", "all")
