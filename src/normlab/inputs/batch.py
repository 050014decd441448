"""What a batch is, and how a model is called with it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from normlab.errors import SpecError
from normlab.inputs.running import failure_text
from normlab.inputs.sandbox import same_random_numbers

Forward = Callable[[nn.Module, Any], Any]


@dataclass(frozen=True)
class Inputs:
    """A batch and the way to call a model with it.

    Args:
        batch: tensors, in tuples, lists and dicts.
        forward: of model and batch.
        made_up: random numbers instead of data.
        source: where it is from, for the report.
    """

    batch: Any
    forward: Forward
    made_up: bool
    source: str

    @property
    def size(self) -> int:
        """N, from the first tensor."""
        return next((len(value) for value in self.tensors if value.dim()), 0)

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors in it."""
        return [value for value in pytree.tree_leaves(self.batch) if isinstance(value, Tensor)]

    @property
    def finite(self) -> bool:
        """Neither NaN nor infinity in it."""
        return all(bool(_stored(value).isfinite().all()) for value in self.tensors if value.is_floating_point())

    def first(self, count: int, start: int = 0) -> Inputs:
        """Some of the examples."""
        size = self.size

        def part(value: Tensor) -> Tensor:
            return value[start : start + count] if value.dim() and len(value) == size else value

        return replace(self, batch=pytree.tree_map_only(Tensor, part, self.batch))

    def call(self, model: nn.Module, device: torch.device) -> Any:
        """What the model gives for copies of the batch.

        Raises:
            RuntimeError: it ends the program. Whatever else it raises passes.
        """
        copies = pytree.tree_map_only(Tensor, lambda value: value.detach().clone().to(device), self.batch)
        try:
            return self.forward(model, copies)
        except SystemExit as error:  # which would end ours, with an exit code that says something else
            raise RuntimeError(f"sys.exit({error.code!r}) was called") from error

    def __str__(self) -> str:
        shapes = ["x".join(map(str, value.shape)) for value in self.tensors[:3]]
        return f"{self.source}, {' and '.join(shapes)}{' and more' * (len(self.tensors) > 3)}"


def read_batch(model: nn.Module, batch: Any, loader: Any, forward: Forward | None) -> Inputs | None:
    """The batch as it was given, or the loader's first one, or random numbers of the shape that a text or tuple says.

    Raises:
        SpecError: a text that is no shape, or of more numbers than fit; a batch without tensors, examples or values; a
            loader that raises.
    """
    call = forward or _call
    if isinstance(batch, str):
        return Inputs(_random(model, parse_shape(batch)), call, True, "a batch of random numbers")
    if isinstance(batch, tuple) and batch and all(isinstance(n, int) for n in batch):
        return Inputs(_random(model, batch), call, True, "a batch of random numbers")
    if batch is None and isinstance(loader, Iterable) and not isinstance(loader, Iterator):
        given = Inputs(_first_of(loader), call, False, "the loader's first batch")
    elif batch is None:
        return None
    else:
        given = Inputs(batch, call, False, "a batch")
    if not given.tensors:
        raise SpecError(f"{given.source} should hold tensors, or read like 8x3x32x32; got {type(given.batch).__name__}")
    if not given.size:
        sizes = tuple(given.tensors[0].shape)
        raise SpecError(f"{given.source} should hold examples, as many as its first size says; got sizes {sizes}")
    if any(value.device.type == "meta" for value in given.tensors):
        raise SpecError(f"{given.source} is on the meta device, and holds no values")
    return given


def parse_shape(text: str) -> tuple[int, ...]:
    """`8x3x32x32`, or with X, → (8, 3, 32, 32).

    Raises:
        SpecError: anything else.
    """
    sizes = text.strip().lower()
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", sizes):
        raise SpecError(f"batch {text!r} should be sizes with x between them, the number of examples first: 8x3x32x32")
    return tuple(int(size) for size in sizes.split("x"))


def _random(model: nn.Module, shape: tuple[int, ...]) -> Tensor:
    try:
        values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    except (RuntimeError, TypeError, OverflowError) as error:
        text = failure_text(error, shape[0])
        raise SpecError(f"random numbers of sizes {shape} cannot be made: {text}") from None
    floats = (value for value in chain(model.parameters(), model.buffers()) if value.is_floating_point())
    first = next(floats, values)
    return values.to(first.dtype)


def _stored(value: Tensor) -> Tensor:
    """Its numbers; of a sparse tensor those that it keeps."""
    if value.layout == torch.strided:
        return value
    return value.coalesce().values() if value.layout == torch.sparse_coo else value.values()


def _first_of(loader: Any) -> Any:
    with batches_of(loader) as batches:
        found = next(batches, None)
    if found is None:
        raise SpecError("the loader gave no batch")
    return found


@contextmanager
def batches_of(loader: Iterable[Any]) -> Generator[Iterator[Any]]:
    """The batches of one more epoch, after which the loader is as it was: its generators, and that of its order.

    Raises:
        SpecError: the loader raises.
    """
    owners = (loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None))
    generators = [own for owner in owners if isinstance(own := getattr(owner, "generator", None), torch.Generator)]
    states = [generator.get_state() for generator in generators]
    kept: Any = getattr(loader, "_iterator", None)  # of workers that persist
    try:
        with same_random_numbers():
            yield iter(loader)
    except (Exception, SystemExit) as error:  # of somebody's data
        text = (str(error).strip().splitlines() or [""])[-1]  # of a worker's traceback the last line
        raise SpecError(f"the loader gave no batch: {type(error).__name__}: {text}") from error
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        if hasattr(loader, "_iterator"):
            setattr(loader, "_iterator", kept)  # noqa: B010 - an iterable has no such attribute for all that is known


def _call(model: nn.Module, batch: Any) -> Any:
    """model(batch); of a tuple as many values as the model must have, at least one: what is left are labels."""
    if isinstance(batch, Mapping):
        return model(**batch)
    if not isinstance(batch, (tuple, list)):
        return model(batch)
    taken = batch[: inputs_of(model)]
    if len(taken) == 1 and isinstance(taken[0], Mapping):
        return model(**taken[0])
    return model(*taken)


def inputs_of(model: nn.Module) -> int:
    """How many values of a tuple go to the model: as many as it must have, at least one; what follows are labels."""
    parameters = inspect.signature(model.forward).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return max(1, sum(p.kind in positional and p.default is p.empty for p in parameters))


def values_of(outputs: Any) -> list[Tensor]:
    """All floating-point tensors in what a model gave: a tensor, tuple, dict, or an object with such attributes."""
    found = pytree.tree_leaves(outputs)
    if not any(isinstance(value, Tensor) for value in found) and hasattr(outputs, "__dict__"):
        found = pytree.tree_leaves(dict(vars(outputs)))
    return [value for value in found if isinstance(value, Tensor) and value.is_floating_point()]


def loss_of(outputs: Any) -> tuple[Tensor | None, str]:
    """Something to differentiate, and what it is: the model's own loss, or the mean square of all outputs.

    Its own is what it gives as `loss`, or the one number that it gives, or the sum of a dict of such numbers.
    """
    own = outputs.get("loss") if isinstance(outputs, Mapping) else getattr(outputs, "loss", None)
    if isinstance(own, Tensor) and own.numel() == 1 and own.requires_grad:
        return own.sum(), "the model's own"
    parts: list[Any] = list(outputs.values()) if isinstance(outputs, Mapping) else [outputs]
    if parts and all(isinstance(value, Tensor) and not value.dim() and value.is_floating_point() for value in parts):
        losses: list[Tensor] = [value for value in parts if value.requires_grad]  # the others are counts and the like
        return (sum(losses[1:], losses[0]) if losses else None), "the model's own" + ", summed" * (len(losses) > 1)
    squares = [value.float().square().mean() for value in values_of(outputs) if value.requires_grad and value.numel()]
    return (torch.stack(squares).sum() if squares else None), "made up, the mean square of the outputs; no labels"
