"""Norms that normalize by the batch in eval mode too."""

from __future__ import annotations

from normlab.doctor.base import Evidence, NotChecked, rule
from normlab.doctor.case import Case
from normlab.doctor.layers import count, names
from normlab.inputs import values_of
from normlab.surgery import Site
from normlab.surgery.statistics.kept import kept

NOTABLE = 1e-3


@rule(
    "NL201",
    "batch-dependent-eval",
    kind="one-batch",
    level="warning",
    why="without running statistics a norm takes the batch's in eval mode as well: a result depends on what else is in "
    "the batch, and a batch of one fails",
    fix='normlab.convert(model, "batch(track_running_stats=True)"); normlab.recalibrate(model, loader)',
    thread="pytorch/pytorch#156051",
    needs=("batch",),
)
def batch_dependent_eval(case: Case) -> Evidence | None:
    """Outputs for half of the batch against those for the same half inside it."""
    found = [site for site in case.sites if _by_batch(site)]
    if not found:
        return None
    change = _change(case)
    if change <= NOTABLE:
        return None
    text = f"no running statistics in {count(len(found))}: in eval mode, leaving out half of the batch changes the "
    text += f"outputs for the other half by {100 * change:.2g} %"
    return Evidence(text, names(found), {"change": change})


def _by_batch(site: Site) -> bool:
    return site.kind == "batch" and not site.frozen and kept(site.module) is None


def _change(case: Case) -> float:
    """Largest change of an output, relative to the largest output."""
    inputs = case.training and case.inputs
    assert inputs is not None
    half = inputs.size // 2
    if half < 1:
        raise NotChecked("one example has no other in its batch: 2 or more are wanted")
    with case.evaluating() as model:
        whole = values_of(inputs.call(model, case.device))
        part = values_of(inputs.first(half).call(model, case.device))
    pairs = [(a[: len(b)], b) for a, b in zip(whole, part, strict=True) if b.dim() and b.numel()]
    changes = [float((a - b).abs().max() / a.abs().max().clamp(min=1e-30)) for a, b in pairs]
    return max(changes, default=0.0)
