"""The paper's initial values of convolutions and fully connected layers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd  # pyright: ignore[reportPrivateUsage]

from normlab.errors import SpecError
from normlab.layers import WeightNormConv2d
from normlab.recipes.wrapped import plain_name
from normlab.seeding import Streams
from normlab.surgery import norm_sites


def init_fan_in(model: nn.Module, streams: Streams) -> None:
    """Draw the weights of all convolutions and fully connected layers anew; their biases become 0.

        convolution:      N(0, 2 / fan_in)
        fully connected:  U(-b, b),  b = √(6 / fan_in)

    fan_in counts the input values of one output value: in_channels / groups · kernel size, also where the convolution
    is transposed. Embeddings, also where a fully connected layer shares theirs, recurrent layers and attention's input
    projections keep what they have; so do convolutions and fully connected layers inside a normalization layer.

    Each weight comes from a stream keyed by its name, drawn in float32 on the CPU, so that networks which share a
    name share its values, whatever else they hold and wherever they are. A weight held twice is drawn once.

    Source: Davis and Frank, official code, `networks.py`. Its comment on the fully connected layers promises torch's
    default, 1/√fan_in; what it computes, and what gave the published numbers, is the bound above.
    """
    drawn = {id(module.weight) for module in model.modules() if isinstance(module, (nn.Embedding, nn.EmbeddingBag))}
    for name, module in _layers(model):
        if id(module.weight) not in drawn:
            drawn.add(id(module.weight))
            generator = streams.torch("init", f"{name}.weight" if name else "weight")
            _assign(module.weight, _draw(module, generator))
            if isinstance(module, WeightNormConv2d):
                module.reset_gain()
        if module.bias is not None:
            _assign(module.bias, torch.zeros(module.bias.shape))


def _layers(model: nn.Module) -> list[tuple[str, _ConvNd | nn.Linear]]:
    """The layers to initialise, by name; checked before any is changed."""
    of_norms = {id(part) for site in norm_sites(model) for part in site.module.modules()}
    every = ((name, m) for name, m in model.named_modules() if id(m) not in of_norms)
    found = [(plain_name(name), m) for name, m in every if isinstance(m, (_ConvNd, nn.Linear))]
    for name, module in found:
        if "weight" not in dict(module.named_parameters(recurse=False)):
            raise SpecError(
                f"weight of {name or type(module).__name__!r} is computed (a parametrization?), so that no initial "
                "value can be given to it: remove that first, or use init='keep'"
            )
    return found


def fan_in(module: _ConvNd | nn.Linear) -> int:
    """Input values that one output value is computed from (at stride 1)."""
    if isinstance(module, nn.Linear):
        return module.in_features
    return module.in_channels // module.groups * math.prod(module.kernel_size)


def _draw(module: _ConvNd | nn.Linear, generator: torch.Generator) -> Tensor:
    values = torch.empty(module.weight.shape, dtype=torch.float32)
    if isinstance(module, nn.Linear):
        bound = math.sqrt(6 / fan_in(module))
        return values.uniform_(-bound, bound, generator=generator)
    return values.normal_(0.0, math.sqrt(2 / fan_in(module)), generator=generator)


def _assign(parameter: Tensor, values: Tensor) -> None:
    with torch.no_grad():
        parameter.copy_(values)
