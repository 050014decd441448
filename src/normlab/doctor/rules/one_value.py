"""One value per channel in training: most often the last batch of an epoch."""

from __future__ import annotations

from typing import Any

from normlab.doctor.base import Evidence, NotChecked, rule
from normlab.doctor.case import Case
from normlab.doctor.layers import called, uses_batch
from normlab.doctor.passes import Pass


@rule(
    "NL002",
    "one-value-per-channel",
    kind="one-batch",
    level="error",
    why="a single value has no variance, so that the layer raises in training mode: at the end of an epoch, if the "
    "last batch has one example, or behind global pooling",
    fix="DataLoader(..., drop_last=True); or normlab.convert(model, \"batch(batch1='running')\")",
    thread="pytorch/pytorch#7716",
    needs=("batch",),
)
def one_value(case: Case) -> Evidence | None:
    """Run the batch, and as many examples as the loader's last batch has."""
    if not any(uses_batch(site) for site in case.sites):
        return None
    assert case.inputs is not None
    whole = _evidence(case.trial(), "this batch")
    if whole is not None:
        return whole
    last = last_batch(case.loader)
    if last is None:
        raise NotChecked("how many examples the last batch has is not known: give the loader")
    length, size, rest = last
    if rest in (0, case.inputs.size) or rest > case.inputs.size:
        return None
    return _evidence(case.trial(rest), f"the last batch: {length} = {length // size} * {size} + {rest} examples")


def last_batch(loader: Any) -> tuple[int, int, int] | None:
    """Number of examples, size of batches, size of the last one; None where a loader does not tell."""
    size, sampler = getattr(loader, "batch_size", None), getattr(loader, "sampler", None)
    try:
        length = len(sampler if sampler is not None else loader.dataset)
    except (TypeError, AttributeError):
        return None
    if not isinstance(size, int) or size < 1:
        return None
    return length, size, 0 if getattr(loader, "drop_last", False) else length % size


def _evidence(found: Pass, where: str) -> Evidence | None:
    call = found.at
    if found.error is None or call is None or not uses_batch(call.site) or len(call.shape) < 2 or call.values != 1:
        return None
    text = f"{called(call.site)} gets {list(call.shape)}, one value per channel, in {where}"
    return Evidence(text, (call.site.name,), {"examples": found.size})
