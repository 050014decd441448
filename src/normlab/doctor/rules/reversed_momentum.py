"""A momentum in the sense of other frameworks."""

from __future__ import annotations

from normlab.doctor.base import Evidence, rule
from normlab.doctor.case import Case
from normlab.doctor.layers import count, names


@rule(
    "NL401",
    "reversed-momentum",
    kind="static",
    level="error",
    why="torch's momentum is the weight of the newest batch, TensorFlow's and Keras's what is kept of the old ones: "
    "their 0.99 is 0.01 here, and as it is, eval mode depends on the last batch or two",
    fix="layer.momentum = 1 - layer.momentum for these layers; then normlab.recalibrate(model, loader)",
    thread="kazuto1011/deeplab-pytorch#79",
)
def reversed_momentum(case: Case) -> Evidence | None:
    """The number of batches that an average of this momentum amounts to."""
    steps = {site.name: case.step(site) for site, _ in case.moving if getattr(site.module, "momentum", None)}
    found = [site for site, _ in case.moving if 0.9 <= steps.get(site.name, 0.0) < 1]
    if not found:
        return None
    step = max(steps[site.name] for site in found)
    span = (2 - step) / step
    text = f"momentum {step:g} in {count(len(found))}: running statistics are an average over {span:.2g} batches"
    return Evidence(text, names(found), {"momentum": step, "batches": span})
