"""Takes a model's running statistics anew, from data: what PreciseBN does, for every normalizer that keeps some."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, islice
from types import NoneType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from normlab.errors import SpecError, require
from normlab.surgery.freeze import is_frozen
from normlab.surgery.sites import Site, norm_sites
from normlab.surgery.statistics.borrow import Forward, modes_kept, require_shapes, through
from normlab.surgery.statistics.gather import group_of, rows_of
from normlab.surgery.statistics.kept import Kept, keepers
from normlab.surgery.statistics.tally import Tally

Run = Callable[[nn.Module, Any], Any]


def recalibrate(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    batches: int | None = None,
    forward: Run | None = None,
    device: torch.device | str | None = None,
    process_group: dist.ProcessGroup | None = None,
    sync: bool = True,
) -> dict[str, int]:
    """Replace the running statistics of all norms by those of the data; weights stay as they are.

        μ = Σ_t b_t μ_t / Σ_t b_t,   σ² = Σ_t b_t (σ_t² + (μ_t - μ)²) / Σ_t b_t       b_t: values per channel in batch t

    Each norm normalizes by its batch, as in training; everything else, dropout say, is in eval mode, and there are no
    gradients. A layer that is called several times, or not in every batch, is weighted by what it got. Old statistics
    have no influence, so that NaN in them is repaired too. The counter advances by the number of batches, and training
    flags, momentum and the rest are as before; if anything raises, the statistics are too.

    σ² is the biased variance of all values together, also in layers that store unbiased ones of single batches. Those
    of instance norms are means over examples, as the layers' own. Maxima and other statistics that do not pool are
    averaged, as the layers do: an `lp` norm of p = ∞ or (centred) p = 1, a whitening matrix of `equilibrium`. Matrices
    that take steps of their own (`whitening`) are like weights. Noise is off, and batch renormalization corrects
    nothing. Layers frozen by `freeze`, and frozen ones of torchvision and timm, stay.

    Where torch.distributed is initialized, the statistics are those of the data of all processes together, however
    many batches each has, and every process ends with the same. FSDP needs as many in each.

    Args:
        model: also an averaged copy, such as torch's AveragedModel; wrapped ones too.
        loader: gives tensors, (input, ...) or dicts of arguments.
        batches: take so many at most.
        forward: runs the model on a batch; by default model(batch), model(batch[0]) or model(**batch).
        device: where batches are moved to; None is where the model's first parameter is.
        process_group: the processes to pool over; None is all. sync: False for this process alone.

    Returns:
        By name of the layer, from how many values per channel its statistics now come; examples for instance norms.
        Where it is 0, the layer got no input and has kept its statistics.

    Raises:
        SpecError: no layer that keeps running statistics, or none that is not frozen; no batches; a batch that the
            default cannot call a model with; statistics that are not finite; a process that failed.

    Source: Wu and Johnson, arXiv:2105.07576, sec. 3; fvcore's precise_bn.
    """
    require(model, nn.Module, "recalibrate takes a torch module")
    require(loader, Iterable, "recalibrate takes a loader, or a list, of batches")
    require(batches, (int, NoneType), "batches is how many to take at most, or None")
    if batches is not None and batches < 1:
        raise SpecError(f"batches={batches} should be 1 or more, or None for all that the loader has")
    model = _inside(model)
    require_shapes(model)
    tallies = {site.name: Tally(site, keeps) for site, keeps in _movable(model)}
    count, failure = 0, None
    try:
        with _counting(model, tallies):
            count = _run(model, islice(loader, batches), forward or _call, device)
    except Exception as error:  # the others would wait for this process: told first, then raised
        failure = error
    _share(list(tallies.values()), count, failure, group_of(process_group) if sync else None)
    for tally in tallies.values():
        tally.check()
    for tally in tallies.values():
        tally.write()
    return {name: int(tally.weight) for name, tally in tallies.items()}


def _inside(model: nn.Module) -> nn.Module:
    """Without wrappers, whose forward passes may wait for other processes."""
    while isinstance(model, (DataParallel, DistributedDataParallel)) or hasattr(model, "_orig_mod"):
        inner = model.module if isinstance(model, (DataParallel, DistributedDataParallel)) else model._orig_mod
        assert isinstance(inner, nn.Module)
        model = inner
    return model


def _movable(model: nn.Module) -> list[tuple[Site, Kept]]:
    found = keepers(model)
    if not found:
        kinds = ", ".join(sorted({type(site.module).__name__ for site in norm_sites(model)}))
        raise SpecError(
            f"there are no running statistics to recalibrate: the model has {kinds or 'no normalization layer'}"
        )
    movable = [(site, keeps) for site, keeps in found if not is_frozen(site.module)]
    if not movable:
        raise SpecError("all running statistics are frozen: unfreeze(model) first")
    return movable


@contextmanager
def _counting(model: nn.Module, tallies: Mapping[str, Tally]) -> Generator[None]:
    """All in eval mode, but for the norms, which count."""

    def around(site: Site, forward: Forward, *args: Any, **kwargs: Any) -> Any:
        return tallies[site.name].call(forward, args, kwargs)

    with modes_kept(model):
        for module in model.modules():
            module.training = False
        with through([tally.site for tally in tallies.values()], around), torch.no_grad():
            yield


def _run(model: nn.Module, batches: Iterator[Any], forward: Run, device: torch.device | str | None) -> int:
    """Run the model on all batches; how many there were."""
    tensors = chain(model.parameters(), model.buffers())
    target = torch.device(device) if device is not None else next(tensors).device
    count = 0
    for batch in batches:
        forward(model, _moved(batch, target))
        count += 1
    return count


def _moved(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {key: _moved(value, device) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        parts = [_moved(value, device) for value in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch


def _call(model: nn.Module, batch: Any) -> Any:
    """model(batch), model(batch[0]) or model(**batch)."""
    given = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    if isinstance(given, Tensor):
        return model(given)
    if isinstance(given, Mapping):
        parameters = inspect.signature(model.forward).parameters.values()
        known = {p.name for p in parameters}
        if set(given) <= known or any(p.kind is p.VAR_KEYWORD for p in parameters):
            return model(**given)
        got = f"keys {', '.join(map(str, given))}, and the model takes {', '.join(sorted(known))}"
    else:
        got = f"a {type(batch).__name__} of {type(given).__name__}" if given is not batch else type(batch).__name__
    raise SpecError(
        f"cannot tell what of a batch the model takes: got {got}. Say it: forward=lambda model, batch: model(...)"
    )


def _share(tallies: list[Tally], count: int, failure: Exception | None, group: dist.ProcessGroup | None) -> None:
    """Make the tallies those of all processes.

    Raises:
        the failure; SpecError: that of another process, or there were no batches.
    """
    if group is None and failure is not None:
        raise failure
    own = [tally.row() for tally in tallies]
    header = own[0].new_tensor([failure is not None, count])
    rows = rows_of(torch.cat([header, *own]), group)
    if failure is not None:
        raise failure
    failed = rows[:, 0].nonzero().flatten().tolist()
    if failed:
        raise SpecError(f"recalibrate failed in process {failed[0]} of the group; its own error says why")
    if not rows[:, 1].any():
        raise SpecError("the loader gave no batches; an iterator that was used up gives none either")
    for tally, parts in zip(tallies, rows[:, 2:].split([len(row) for row in own], 1), strict=True):
        tally.take(parts)
    if not any(bool(tally.weight) for tally in tallies):
        raise SpecError("no layer with running statistics was called, or all batches were left out as not finite")
