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
from normlab.inputs import Forward, Inputs, batches_of, inputs_of, loss_of, read_batch, values_of
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
        SpecError: none of these; examples that are not finite, or all the same.
    """
    if isinstance(data, str):
        if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", data.strip()):
            raise SpecError(f"data {data!r} should be the sizes of one example, with x between them: 3x32x32")
        data = f"{wanted}x{data.strip()}"
    elif not isinstance(data, (Tensor, Mapping, tuple, list)):
        if not isinstance(data, Iterable):
            raise SpecError(f"data should hold tensors, or give batches of them; got {came(data)}")
        data = _gathered(data, wanted)
    elif not any(True for _ in _tensors(data)):
        what = came(data) if data else "nothing"
        raise SpecError(f"data should hold tensors, give batches of them, or read like 3x32x32; it holds {what}")
    inputs = read_batch(model, data, None, forward)
    assert inputs is not None
    if not inputs.finite:
        raise SpecError(f"{inputs.source} holds NaN or infinity, with which every network is unstable: leave these out")
    if _all_same(inputs, model, forward):
        raise SpecError(f"the data holds {inputs.size} times the same example: nothing can be told apart in it")
    return Pool(replace(inputs, source="random numbers" if inputs.made_up else "the data"))


def _all_same(inputs: Inputs, model: nn.Module, forward: Forward | None) -> bool:
    """Whether the examples are all alike, but for their labels."""
    batch = inputs.batch
    if forward is None and isinstance(batch, (tuple, list)):
        batch = batch[: inputs_of(model)]
    values = [value for value in _tensors(batch) if value.dim() and len(value) == inputs.size > 1]
    return bool(values) and all(value.layout == torch.strided and bool((value == value[0]).all()) for value in values)


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


def loss(outputs: Any, batch: Any, taken: int) -> tuple[Tensor | None, str]:
    """Something to differentiate, and what it is: cross-entropy with labels, if there are any and they fit.

    Args:
        taken: how many values of a tuple are not labels.
    """
    labels = batch[-1] if isinstance(batch, (tuple, list)) and len(batch) > 1 else None
    found = values_of(outputs)
    if isinstance(labels, Tensor) and found and _fit(labels, found[0]):
        return F.cross_entropy(found[0].float(), labels.to(found[0].device).long()), "cross-entropy with the labels"
    total, said = loss_of(outputs)
    if isinstance(labels, Tensor) and len(batch) > taken:
        given = f"the labels given, {_form(labels)}, were not used: they are no classes of the output"
        said = f"{said.removesuffix('; no labels')}; {given}{f', {_form(found[0])}' if found else ''}"
    return total, said


def _form(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {'x'.join(map(str, value.shape)) or 'number'}"


def _fit(labels: Tensor, scores: Tensor) -> bool:
    """Whole numbers [N, *S] of classes that scores [N, C, *S] have."""
    whole = not labels.is_floating_point() and labels.dtype != torch.bool and not labels.is_complex()
    if not whole or scores.dim() < 2 or labels.shape != (scores.shape[0], *scores.shape[2:]):
        return False
    return bool(((labels >= 0) & (labels < scores.shape[1])).all())
