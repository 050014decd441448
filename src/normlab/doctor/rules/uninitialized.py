"""What is left of a model that was made on the meta device, when nobody fills it."""

from __future__ import annotations

from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase  # pyright: ignore[reportPrivateUsage]

from normlab.doctor.base import Evidence, rule
from normlab.doctor.case import Case
from normlab.doctor.layers import batches, count, names
from normlab.surgery import Site

MOST_BATCHES = 10**10


@rule(
    "NL027",
    "uninitialized",
    kind="static",
    level="error",
    why="to_empty, as deferred initialization uses it, leaves memory as it was found; a checkpoint without buffers, or "
    "an initializer that knows only Linear and Conv, does not repair the norms, and eval mode gives garbage or NaN",
    fix="layer.reset_parameters() for these layers, after to_empty; then load the checkpoint",
    thread="NVIDIA-BioNeMo/bionemo-recipes#1368",
)
def uninitialized(case: Case) -> Evidence | None:
    """Tensors without memory, variances below 0, counters that no training has reached."""
    found = {site.name: fault for site in case.sites if (fault := _fault(site)) is not None}
    if not found:
        return None
    text = f"{count(len(found))} with values that no training leaves behind: {next(iter(found.values()))}"
    sites = [site for site in case.sites if site.name in found]
    return Evidence(text, names(sites), {"layers": len(found)})


def _fault(site: Site) -> str | None:
    own = (*site.module.named_parameters(recurse=False), *site.module.named_buffers(recurse=False))
    for name, value in own:
        if value.device.type == "meta":
            return f"{name} is on the meta device"
    var = getattr(site.module, "running_var", None)
    if isinstance(var, Tensor) and bool((var < 0).any()):
        return f"a running variance of {float(var.min()):.3g}"
    seen = batches(site)
    if isinstance(site.module, _NormBase) and isinstance(var, Tensor) and not seen and not var.any():
        return "a running variance of 0 in every channel, before any batch"
    if seen is not None and not 0 <= seen < MOST_BATCHES:
        return f"a count of {seen} batches"
    return None
