"""The batches that networks are trained and measured on, and what the loss on them is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from normlab.errors import SpecError, came
from normlab.inputs import (
    Forward,
    Inputs,
    batches_of,
    failure_text,
    inputs_of,
    loss_of,
    read_batch,
    sandbox,
    values_of,
)
from normlab.seeding import Streams

OWN = "the model's own"  # as `loss_of` says it
MOST = 16  # batches that are kept of a loader: training goes round in them
UserLoss = Callable[[nn.Module, Any], Tensor]


@dataclass(frozen=True)
class Batches:
    """What a network is trained on.

    Args:
        inputs: one or more; training takes them in turn.
        labels: of each, [N]; None where there are none, or the loss needs none.
        loss: what is minimised, in words.
        made_up: the labels are random numbers.
        own: the user's loss.
        unused: labels that came and say nothing here, in words; empty if there are none.
    """

    inputs: tuple[Inputs, ...]
    labels: tuple[Tensor, ...] | None
    loss: str
    device: torch.device
    made_up: bool = False
    own: UserLoss | None = None
    unused: str = ""

    def loss_on(self, model: nn.Module, number: int) -> Tensor:
        """The loss [] on the batch of a step."""
        k = number % len(self.inputs)
        if self.own is not None:
            batch = pytree.tree_map_only(Tensor, lambda x: x.to(self.device), self.inputs[k].batch)
            return _number(self.own(model, batch))
        if self.labels is not None:
            scores = _scores(self.inputs[k].call(model, self.device))
            return F.cross_entropy(scores, self.labels[k].to(self.device))
        with torch.enable_grad():  # loss_of looks for what can be differentiated
            found, _ = loss_of(self.inputs[k].call(model, self.device))
        assert found is not None
        return found if torch.is_grad_enabled() else found.detach()

    @property
    def values(self) -> int:
        """In the first batch."""
        return sum(part.numel() for part in self.inputs[0].tensors)

    @property
    def classified(self) -> bool:
        """Is there an accuracy?"""
        return self.labels is not None and not self.made_up

    @torch.no_grad()
    def accuracy(self, model: nn.Module) -> float:
        """Share of the examples that are classified correctly, in %."""
        assert self.labels is not None
        right = count = 0
        for given, labels in zip(self.inputs, self.labels, strict=True):
            right += int((_scores(given.call(model, self.device)).argmax(1) == labels.to(self.device)).sum())
            count += len(labels)
        return 100 * right / count

    def __str__(self) -> str:
        first, *others = self.inputs
        return f"{f'{len(others) + 1} batches, the first: ' if others else ''}{first}; loss: {self.loss}"


def read_batches(
    model: nn.Module,
    batch: Any,
    loader: Any,
    *,
    forward: Forward | None,
    loss: UserLoss | None,
    device: torch.device,
    seed: int,
) -> Batches:
    """The batch, or the first ones of the loader, once it is known that the model runs on them.

    Raises:
        SpecError: no batch; NaN in one; a model that does not run, or gives nothing to make a loss of.
    """
    inputs = tuple(_inputs(model, batch, loader, forward))
    for number, one in enumerate(inputs):
        if not one.finite:
            raise SpecError(f"batch {number} holds NaN or infinity, and so would every loss on it: clean the data")
    if loss is not None:
        return Batches(inputs, None, "your own", device, own=loss)
    outputs = _outputs(model, inputs[0], device)
    found, words = _loss_of(model, outputs)
    labels = [_labels(model, one.batch) for one in inputs]
    unused = next((_shown(one) for one in labels if one is not None), "")
    if words.startswith(OWN):
        return Batches(inputs, None, words, device, unused=unused)
    scores = _first(outputs)
    if scores is None or found is None:
        raise SpecError(f"{type(model).__name__} gives no tensor to make a loss of: loss=lambda model, batch: ... does")
    if scores.dim() != 2 or scores.shape[1] < 2:
        return Batches(inputs, None, words.partition(";")[0] if unused else words, device, unused=unused)
    n, classes = scores.shape
    given = [one for one in labels if isinstance(one, Tensor) and one.shape == (n,) and not one.is_floating_point()]
    if len(given) == len(inputs):
        _check(given, classes)
        return Batches(inputs, tuple(given), "cross-entropy", device)
    labels = _random(inputs, classes, seed)
    return Batches(inputs, labels, "cross-entropy with random labels", device, made_up=True, unused=unused)


def _inputs(model: nn.Module, batch: Any, loader: Any, forward: Forward | None) -> Iterator[Inputs]:
    if batch is not None and loader is not None:
        raise SpecError("batch and loader both give data: give one of them")
    if loader is None:
        found = read_batch(model, batch, None, forward)
        if found is None:
            raise SpecError("give data: a batch, its shape such as '64x3x32x32', or a loader")
        yield found
        return
    every = _first_of(loader)
    if not every:
        raise SpecError("the loader gave no batch")
    size = 0
    for one in every:
        found = read_batch(model, one, None, forward)
        assert found is not None
        size = size or found.size
        if found.size == size:  # a last one that is smaller would be measured like the others, and is not like them
            yield found


def _first_of(loader: Any) -> list[Any]:
    if not isinstance(loader, Iterable):
        raise SpecError(f"loader should give batches when iterated over; got {type(loader).__name__}")
    with batches_of(loader) as batches:
        return list(islice(batches, MOST))


def _outputs(model: nn.Module, inputs: Inputs, device: torch.device) -> Any:
    with sandbox(model, device):
        try:
            return inputs.call(model.train(), device)
        except Exception as error:  # whatever somebody else's model does
            raise SpecError(f"the model does not run on the batch: {failure_text(error, inputs.size)}") from error


def _loss_of(model: nn.Module, outputs: Any) -> tuple[Tensor | None, str]:
    found, words = loss_of(outputs)
    if found is None and _first(outputs) is not None:
        if any(p.requires_grad for p in model.parameters()):
            raise SpecError("what the model gives has no gradient: it is detached, or computed under torch.no_grad()")
        raise SpecError("no parameter of the model requires a gradient: it is frozen, and nothing can be trained")
    return found, words


def _labels(model: nn.Module, batch: Any) -> Any:
    """What follows the values that the model must have."""
    taken = inputs_of(model)
    if not isinstance(batch, (tuple, list)) or len(batch) <= taken:
        return None
    return batch[taken]


def _shown(labels: Any) -> str:
    if not isinstance(labels, Tensor):
        return f"a {type(labels).__name__}"
    return f"{'x'.join(map(str, labels.shape))} of {str(labels.dtype).removeprefix('torch.')}"


def _number(loss: Any) -> Tensor:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        found = list(loss.shape) if isinstance(loss, Tensor) else came(loss)
        raise SpecError(f"loss(model, batch) should give one number as a tensor, as cross_entropy does; got {found}")
    return loss.reshape(())


def _first(outputs: Any) -> Tensor | None:
    return next(iter(values_of(outputs)), None)


def _scores(outputs: Any) -> Tensor:
    found = _first(outputs)
    assert found is not None
    return found


def _check(labels: list[Tensor], classes: int) -> None:
    low, high = min(int(one.min()) for one in labels), max(int(one.max()) for one in labels)
    if low < 0 or high >= classes:
        raise SpecError(f"labels from {low} to {high} do not fit a model with {classes} outputs")


def _random(inputs: tuple[Inputs, ...], classes: int, seed: int) -> tuple[Tensor, ...]:
    streams = Streams(seed)
    return tuple(
        torch.randint(classes, (one.size,), generator=streams.torch("labels", k)) for k, one in enumerate(inputs)
    )
