"""`momentum=None` under torch.compile."""

from __future__ import annotations

from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from normlab.doctor.base import Evidence, rule
from normlab.doctor.case import Case
from normlab.doctor.layers import count, names


@rule(
    "NL018",
    "compiled-cumulative-momentum",
    kind="static",
    level="warning",
    why="torch's layers turn the counter into a Python number to average all batches alike: the graph breaks at each "
    "of them, and fullgraph=True fails",
    fix='normlab.convert(model, "batch"), which averages on the device; or momentum=0.1',
    thread="pytorch/pytorch#194504",
)
def compiled_momentum(case: Case) -> Evidence | None:
    """A compiled model with such layers."""
    found = [s for s, _ in case.moving if isinstance(s.module, _BatchNorm) and s.module.momentum is None]
    if not (case.compiled and found):
        return None
    kind = type(found[0].module).__name__
    text = f"momentum=None in {count(len(found))} of type {kind}, compiled: as many graph breaks in training"
    return Evidence(text, names(found), {"layers": len(found)})
