"""Measures a model on one batch and says what the numbers mean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from normlab.errors import SpecError, require
from normlab.inputs import Forward, Inputs, inside, obstacle, read_batch, usable_device
from normlab.inspect.health import marked
from normlab.inspect.layers import MATRICES, initial_values, targets
from normlab.inspect.measure import Ran, Row, home, measure
from normlab.inspect.report import Report, is_measured
from normlab.inspect.verdict import Statement, statements, why_healthy


def inspect(
    model: nn.Module,
    batch: Any,
    *,
    device: torch.device | str | None = None,
    forward: Forward | None = None,
    initial: nn.Module | Mapping[str, Tensor] | None = None,
) -> Report:
    """See what normalization does to a network, layer by layer, in one forward and backward pass.

    The pass is made in training mode. The model is left as it was, bit for bit: weights, buffers, gradients, training
    flags, and generators of random numbers, its own ones where they are attributes of modules. Not put back is what it
    writes to in place elsewhere: tensors that are no buffers, lists, files. It takes the time and memory of a training
    step, and a copy of the model.

    Args:
        model: also in DDP, compiled, frozen. Without normalization layers its convolutions and linear layers are shown.
        batch: as in training. A tensor; a tuple, of which as many values are taken as the model's `forward` must have,
            what follows being labels, which are not needed; a dict of keyword arguments; or "8x3x32x32", random
            numbers of that shape.
        device: where a copy is run; None is where the model is. The batch is moved there.
        forward: runs the model on a batch, where the above does not fit: lambda model, batch: model(...). What is
            differentiated is the `loss` in what it returns, a 0-d tensor that it returns, or the sum of a dict of them;
            if there is none of these, the mean square of all that it returns.
        initial: the model, or its state dict, as training began: what drift is counted from. None is γ = 1 and β = 0;
            and a layer all channels of which have one value has not moved from it.

    Returns:
        The report: print it, or write `report.html(path)`; `report.rows` holds the numbers.

    Raises:
        SpecError: not a module, a batch that is none, a device that is not there; or the model does not run on it.
    """
    require(model, nn.Module, "inspect takes a torch module")
    inner, where = inside(model), usable_device(device)
    reason = obstacle(inner)
    if reason is not None:
        raise SpecError(reason)
    inputs = read_batch(inner, batch, None, forward)
    if inputs is None:
        raise SpecError("inspect takes a batch: a tensor, a tuple, a dict, or a text like 8x3x32x32")
    chosen, note = targets(inner)
    start = initial_values(initial)
    rows, ran = measure(inner, chosen, inputs, where or home(inner), start)
    rows = marked(rows)
    dark = _is_dark(inner, rows, ran)
    found = statements([row for row in rows if row.calls], inputs, dark=dark)
    return Report(
        _subject(inner, chosen_types(rows), inputs, where or home(inner)),
        _verdict(rows, found),
        found,
        tuple(rows),
        tuple(_notes(rows, note, ran.loss, dark=dark, given=start is not None)),
    )


def chosen_types(rows: Sequence[Row]) -> str:
    """`20 BatchNorm2d`, the most frequent first."""
    return ", ".join(f"{count} {kind}" for kind, count in Counter(row.type for row in rows).most_common())


def _subject(model: nn.Module, kinds: str, inputs: Inputs, device: torch.device) -> str:
    return f"{type(model).__name__}: {kinds}; on {device}; {inputs}"


def _verdict(rows: Sequence[Row], found: Sequence[Statement]) -> str:
    called = [row for row in rows if row.calls]
    if not called:
        return "Unknown: none of these layers was called."
    grave = [said for said in found if said.grave]
    if grave:
        return f"Not healthy: {'; '.join(f'{said.title}, beginning {said.begins}' for said in grave)}."
    if not is_measured(rows):
        return f"Unknown: nothing could be measured, {next(iter(called[0].missing.values()), 'at no layer')}."
    remarks = f" There {'is 1 remark' if len(found) == 1 else f'are {len(found)} remarks'}." if found else ""
    return f"Healthy: {why_healthy(called)}.{remarks}"


def _no_gradients(rows: Sequence[Row]) -> bool:
    """All that were computed are 0."""
    known = [row.gradient_norm for row in rows if row.gradient_norm is not None]
    return bool(known) and not any(known)


def _is_dark(model: nn.Module, rows: Sequence[Row], ran: Ran) -> bool:
    """No gradient reaches a layer, and neither a last layer that starts at 0 explains it, nor closed branches, past
    which examples would still differ.
    """
    if not _no_gradients(rows) or ran.vary:
        return False
    return not any(isinstance(module, MATRICES) and not bool(module.weight.any()) for module in model.modules())


def _notes(rows: Sequence[Row], note: str, loss: str, *, dark: bool, given: bool) -> list[str]:
    notes = [note] if note else []
    notes.append(f"loss: {loss}" if loss else "nothing that is trained reaches the outputs: there are no gradients")
    if _no_gradients(rows) and not dark:
        notes.append("all gradients are 0: a last layer whose weights start at 0 sends none back, nor does γ = 0")
    if any(row.weight or row.bias for row in rows):
        counted = "the initial values given" if given else "γ = 1 and β = 0, or a layer's one value if all are equal"
        notes.append(f"drift, rms over the channels, counts from {counted}" + "; initial= takes others" * (not given))
    if any(row.closed for row in rows):
        closed = sum(row.closed for row in rows)
        layers = "1 layer has" if closed == 1 else f"{closed} layers have"
        notes.append(f"{layers} γ = 0 throughout, as where a branch begins as nothing")
    often = [row for row in rows if row.calls > 1]
    if often:
        notes.append(f"called more than once: {_list(often)}; means over the calls, gradients by √Σ squares")
    idle = [row for row in rows if not row.calls]
    if idle:
        notes.append(f"not called: {_list(idle)}")
    return notes


def _list(rows: Sequence[Row], most: int = 4) -> str:
    names = [row.name + f" ({row.calls}x)" * (row.calls > 1) for row in rows[:most]]
    return ", ".join(names) + f" and {len(rows) - most} more" * (len(rows) > most)
