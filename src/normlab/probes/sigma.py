"""The standard deviation that a layer divides by."""

from __future__ import annotations

from torch import Tensor

from normlab.probes.base import PROBES, Probe
from normlab.probes.standard import why_not


def sigma(var: Tensor) -> Tensor:
    """The mean σ over everything that is normalized separately, without eps, []; in units of x.

    Args:
        var: σ², biased.

    Source: σ of Davis and Frank, arXiv:2110.13989, Eq. 12.
    """
    return var.detach().sqrt().mean()


@PROBES.register("sigma")
def sigma_probe() -> Probe:
    """`sigma` of what the layer gets; the root mean square where it does not center."""
    return Probe("sigma", "standard", lambda _, s: sigma(s.var), why_not)
