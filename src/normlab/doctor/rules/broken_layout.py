"""Norms that turn channels-last activations back."""

from __future__ import annotations

import math

from normlab.doctor.base import Evidence, rule
from normlab.doctor.case import Case
from normlab.doctor.layers import count, names


@rule(
    "NL017",
    "broken-layout",
    kind="one-batch",
    level="warning",
    why="each such layer copies the activations to the other layout, and the next convolution copies them back: with "
    "channels_last a model gets slower instead of faster",
    fix='normlab.convert(model, "instance") or "group": these keep the layout',
    thread="pytorch/pytorch#59168",
    needs=("batch",),
)
def broken_layout(case: Case) -> Evidence | None:
    """Channels last in, channels first out."""
    found = [call for call in case.training.calls if call.layout == (True, False)]
    if not found:
        return None
    values = sum(math.prod(call.shape) for call in found)
    sites = [call.site for call in found]
    text = f"channels-last activations become contiguous in {count(len(names(sites)))} of type "
    text += f"{type(sites[0].module).__name__}: {values:,} values are copied in a forward pass"
    return Evidence(text, names(sites), {"values": values})
