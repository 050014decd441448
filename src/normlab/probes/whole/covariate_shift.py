"""Internal covariate shift: how far a layer's gradient turns because the layers before it have learned."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from normlab.errors import SpecError, came
from normlab.probes.whole.calls import as_number, call_order
from normlab.probes.whole.surface import Loss, cosine, difference, norm_of, surface


@dataclass(frozen=True)
class CovariateShift:
    """G_i, the gradient of layer i, and G'_i, the same after the layers before it took one gradient step.

    Args:
        layers: names, in the order in which they are called.
        shifts: |G_i - G'_i|, 0 for the first. cosines: of the angles between the two, 1 for the first.
        norms: |G_i|, to compare the shifts with.

    Source: Santurkar et al., arXiv:1805.11604, definition 2.1.
    """

    layers: tuple[str, ...]
    shifts: tuple[float, ...]
    cosines: tuple[float, ...]
    norms: tuple[float, ...]


def internal_covariate_shift(model: nn.Module, loss: Loss, *, lr: float, training: bool = True) -> CovariateShift:
    """Let one layer after the other take its step of plain gradient descent, on one batch.

    A layer is a module with parameters of its own that are trained. It costs a forward and backward pass for each.

    Args:
        loss: computes the loss on a fixed batch: `lambda: cross_entropy(model(x), y)`.
        lr: size of the steps.
        training: norms use the batch, and their running statistics stay; False for eval mode.

    Raises:
        SpecError: see `surface`; lr is no number, 0 or more.
    """
    if not 0 <= as_number(lr) < float("inf"):
        raise SpecError(f"lr={came(lr)} should be a number, 0 or more, the size of the step that the layers take")
    shifts: list[float] = []
    cosines: list[float] = []
    norms: list[float] = []
    with surface(model, loss, training=training) as around:
        layers = _layers(model, call_order(model, around.loss), set(around.parameters))
        _, before = around.gradient()
        for names in layers.values():
            own = {name: before[name] for name in names}
            _, after = around.gradient(names)
            shifts.append(norm_of(difference(own, after)))
            cosines.append(cosine(own, after))
            norms.append(norm_of(own))
            around.move(own, -lr)
    return CovariateShift(tuple(layers), tuple(shifts), tuple(cosines), tuple(norms))


def _layers(model: nn.Module, order: list[str], trained: set[str]) -> dict[str, list[str]]:
    """By name of a module, the names of its own parameters; each of these once."""
    first = {id(p): name for name, p in model.named_parameters()}
    left, found = set(trained), dict[str, list[str]]()
    for layer in order:
        own = [first[id(p)] for p in model.get_submodule(layer).parameters(recurse=False)]
        names = [name for name in dict.fromkeys(own) if name in left]
        if names:
            found[layer] = names
            left -= set(names)
    return found
