"""Replaces normalization layers (and convolutions) by others, keeping all that can be kept."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from normlab.surgery import trial
from normlab.surgery.conversion.operation import Operation
from normlab.surgery.conversion.optimizers import Optimizer
from normlab.surgery.conversion.plan import plan
from normlab.surgery.conversion.select import Where, choose, names_of
from normlab.surgery.conversion.table import Left
from normlab.surgery.conversion.targets import Factory, one_line, read_target
from normlab.surgery.record import ConversionRecord
from normlab.surgery.trial import Sample
from normlab.surgery.wrapped import unwrap


def convert(
    model: nn.Module,
    spec: str | Factory,
    *,
    where: Where | None = None,
    sample: Sample | None = None,
    optimizer: Optimizer | None = None,
    dry_run: bool = False,
) -> ConversionRecord:
    """Put other layers in the place of a model's norms, or of its convolutions; in place.

    The new layers hold the very parameters and buffers of the old ones where shape and meaning agree, so that
    optimizers and averages that refer to them go on working. eps, momentum, absence of weight or bias,
    track_running_stats, dtype, device, training flag, requires_grad and hooks are those of the old layer, unless the
    spec names them; a layer with several names stays one layer. What follows the norm inside timm's norm+act layers
    stays: `drop` and `act` are children of the new layer too, with the same keys in the state dict. Layers whose
    features are the last dimension, [N, ..., C], get theirs as [N, C, ...], a view.

    Everything is tried before anything is changed, and what fails afterwards is undone: after an error the model and
    the optimizer are as they were, to the bit.

    Args:
        model: a module; the one inside DataParallel and torch.compile is operated on.
        spec: a norm, such as "group(num_groups=32, lower=True)"; a convolution, such as "weight_standardized", for
            layers that are exactly nn.Conv2d, normlab's, or timm's of the same maths; or a function from num_features
            to a new layer, such as nn.SyncBatchNorm or lambda c: nn.GroupNorm(8, c).
        where: a name or pattern (`layer4.*`), several of them, or a function of the `Site`. By default all norms of
            batch type, or all norms of a model without any.
        sample: an input, a tuple of arguments, or a dict of keyword arguments. With it lazy layers get their shapes,
            the converted model is run once in training mode, to find layers that cannot work there, such as groups of
            one value, and once in eval mode, to measure the change. The run leaves no trace.
        optimizer: gets the parameters that are new, in the group of their layer, and loses those that are gone.
        dry_run: do everything, then undo it, and return what would have changed.

    Raises:
        UnknownName: no such norm or argument, or a pattern that no layer's name matches.
        SpecError: nothing to convert; a model that cannot be operated on, because it is sharded, scripted or
            quantised, say; a layer that cannot be converted, with its name and the reason.
    """
    inner, target = unwrap(model), read_target(spec)
    with ExitStack() as undo:
        undo.callback(torch.set_rng_state, torch.get_rng_state())
        before = [] if sample is None else _first_outputs(inner, sample, undo)
        chosen, left = choose(inner, target, where)
        names = names_of(inner)
        taken = {id(module) for module in inner.modules()}
        plans = [plan(site, names[id(site.module)], target, inner, taken) for site in chosen]
        operation = Operation(inner, [swap for swap, _ in plans])
        operation.do(optimizer)
        undo.callback(operation.undo)
        difference, unreached = None, ()
        if sample is not None:
            unreached = trial.check_training(operation.after, sample, {swap.names[0]: swap.new for swap, _ in plans})
            difference = trial.largest_difference(before, trial.outputs(operation.after, sample, training=False))
        if not dry_run:
            undo.pop_all()
    return ConversionRecord(
        model=operation.after if operation.after is not operation.before and not dry_run else model,
        changes=tuple(change for _, change in plans),
        left=tuple(Left(site.name, one_line(site.module, library=False)) for site in left),
        difference=difference,
        unreached=unreached,
        dry_run=dry_run,
        gone=operation.gone,
        new=operation.new,
        operation=operation,
    )


def _lazy(model: nn.Module) -> bool:
    return any(is_lazy(value) for value in (*model.parameters(), *model.buffers()))


def _first_outputs(model: nn.Module, sample: Sample, undo: ExitStack) -> list[Tensor]:
    with trial.first_run():
        if _lazy(model):
            trial.materialize(model, sample, undo)
        return trial.outputs(model, sample, training=False)
