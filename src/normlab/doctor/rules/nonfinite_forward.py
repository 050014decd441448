"""NaN or infinity in a batch, or on the way through the model."""

from __future__ import annotations

from normlab.doctor.base import Evidence, rule
from normlab.doctor.case import Case
from normlab.doctor.layers import called, count

_SCALE = "scale the inputs as in training; if they are, look in the layers before for what lets values grow"
_OVERFLOW = 'float32 or bfloat16 for what overflows; "batch(guard_nonfinite=True)" keeps it out of the statistics'


@rule(
    "NL103",
    "nonfinite-forward",
    kind="one-batch",
    level="error",
    why="in training mode one such batch makes the running statistics NaN, for good, even if the step is skipped",
    fix='look for these examples in the data; "batch(guard_nonfinite=True)" keeps them out of the statistics',
    thread="pytorch/pytorch#40497",
    needs=("batch",),
)
def nonfinite_forward(case: Case) -> Evidence | None:
    """Where it appears first: in the batch, before a norm, in its variance, or in the outputs."""
    assert case.inputs is not None
    hit = [site.name for site, _ in case.moving]
    if not case.inputs.finite:
        bad = sum(int((~value.isfinite()).sum()) for value in case.inputs.tensors if value.is_floating_point())
        total = sum(value.numel() for value in case.inputs.tensors)
        text = f"{bad} of {total} values of the batch are NaN or infinite; the running statistics of "
        text += f"{count(len(hit))} would follow"
        return Evidence(text, tuple(hit), {"nonfinite": bad})
    found = case.training
    first = next((call for call in found.calls if call.overflows or not call.finite), None)
    if first is not None and first.finite:
        text = f"what reaches {called(first.site)}, {list(first.shape)}, is as large as {first.entered:.2g}: "
        text += "its square overflows, the variance is infinite, and what comes out is 0 or NaN"
        return Evidence(text, (first.site.name,), {"largest": first.entered}, _SCALE)
    if first is not None:
        text = f"what reaches {called(first.site)}, {list(first.shape)}, holds NaN or infinity"
        return Evidence(text, (first.site.name,), fix=_OVERFLOW)
    worst = sum(int((~value.isfinite()).sum()) for value in found.outputs)
    text = f"{worst} values of the outputs are NaN or infinite"
    return Evidence(text, (), {"nonfinite": worst}, _OVERFLOW) if worst else None
