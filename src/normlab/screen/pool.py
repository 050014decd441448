"""Where the batches of a screening come from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from normlab.errors import SpecError, came
from normlab.inputs import Forward, Inputs, batches_of, loss_of, read_batch, values_of
from normlab.seeding import Streams

LEAST = 64


@dataclass(frozen=True)
class Pool:
    """Examples to draw batches from.

    Args:
        inputs: all of them, and how a model is called with them.
    """

    inputs: Inputs

    def batch(self, size: int, streams: Streams, number: int) -> Inputs:
        """So many different examples, at random; the same for every candidate.

        Raises:
            SpecError: there are fewer.
        """
        have = self.inputs.size
        if size > have:
            raise SpecError(f"{self.inputs.source} holds {have} examples, too few for a batch of {size}")
        chosen = torch.from_numpy(streams.numpy("probe", number).permutation(have)[:size].copy())
        return replace(self.inputs, batch=_select(self.inputs.batch, chosen, have))


def _select(batch: Any, chosen: Tensor, size: int) -> Any:
    def part(value: Tensor) -> Tensor:
        return value[chosen.to(value.device)] if value.dim() and len(value) == size else value

    return pytree.tree_map_only(Tensor, part, batch)


def read_pool(model: nn.Module, data: Any, wanted: int, forward: Forward | None) -> Pool:
    """The examples in a batch, or in as many batches of a loader as are wanted, or random numbers of a shape.

    Args:
        data: tensors, in tuples, lists and dicts; what gives such batches; or the sizes of one example: "3x32x32".
        wanted: number of examples, of which there may be fewer.

    Raises:
        SpecError: none of these; examples that are not finite.
    """
    if isinstance(data, str):
        if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", data.strip()):
            raise SpecError(f"data {data!r} should be the sizes of one example, with x between them: 3x32x32")
        data = f"{wanted}x{data.strip()}"
    elif not isinstance(data, (Tensor, Mapping, tuple, list)):
        if not isinstance(data, Iterable):
            raise SpecError(f"data should hold tensors, or give batches of them; got {came(data)}")
        data = _gathered(data, wanted)
    inputs = read_batch(model, data, None, forward)
    assert inputs is not None
    if not inputs.finite:
        raise SpecError(f"{inputs.source} holds NaN or infinity, with which every network is unstable: leave these out")
    return Pool(replace(inputs, source="random numbers" if inputs.made_up else "the data"))


def _gathered(loader: Iterable[Any], wanted: int) -> Any:
    """As many batches as are wanted, as one."""
    parts: list[Any] = []
    count = 0
    with batches_of(loader) as batches:
        for batch in batches:
            parts.append(batch)
            count += next((len(leaf) for leaf in _tensors(batch) if leaf.dim()), 0)
            if count >= wanted or not count:
                break
    if not count:
        raise SpecError("the data gave no batch of tensors")
    specs = [pytree.tree_flatten(part) for part in parts]
    first, how = specs[0]
    if any(spec != how for _, spec in specs):
        raise SpecError("the batches of the data are not built alike")
    return pytree.tree_unflatten([_joined([leaves[i] for leaves, _ in specs]) for i in range(len(first))], how)


def _tensors(batch: Any) -> Iterator[Tensor]:
    return (leaf for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor))


def _joined(values: list[Any]) -> Any:
    tensors = [value for value in values if isinstance(value, Tensor) and value.dim()]
    if len(tensors) < len(values):
        return values[0]
    if any(value.shape[1:] != tensors[0].shape[1:] for value in tensors):
        raise SpecError("the examples of the data differ in shape from batch to batch: give one batch")
    return torch.cat(tensors)


def loss(outputs: Any, batch: Any) -> tuple[Tensor | None, str]:
    """Something to differentiate, and what it is: cross-entropy with labels, if there are any and they fit."""
    labels = batch[-1] if isinstance(batch, (tuple, list)) and len(batch) > 1 else None
    found = values_of(outputs)
    if isinstance(labels, Tensor) and found and _fit(labels, found[0]):
        return F.cross_entropy(found[0].float(), labels.to(found[0].device).long()), "cross-entropy with the labels"
    return loss_of(outputs)


def _fit(labels: Tensor, scores: Tensor) -> bool:
    whole = not labels.is_floating_point() and labels.dtype != torch.bool and not labels.is_complex()
    shapes = labels.dim() == 1 and scores.dim() == 2 and len(labels) == len(scores)
    return whole and shapes and bool(((labels >= 0) & (labels < scores.shape[1])).all())
