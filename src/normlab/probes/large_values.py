"""The share of normalized values beyond 6 standard deviations."""

from __future__ import annotations

import torch
from torch import Tensor

from normlab.errors import SpecError
from normlab.probes.base import PROBES, Probe, wide
from normlab.probes.standard import why_not


def large_values(xhat: Tensor, threshold: float = 6.0, *, per_channel: bool = False) -> Tensor:
    """The share of values with |x̂| > threshold, strictly. Of a Gaussian 2.0e-9 are beyond 6.

    |x̂| <= √(m - 1) for m values normalized together, so nothing is beyond 6 where m <= 37.

    Args:
        xhat: normalized values before γ and β, of any shape; [N, C, *S] for `per_channel`.

    Returns:
        [] or [C], from 0 to 1; NaN where there are NaN.

    Source: Davis and Frank, arXiv:2110.13989, sec. 3.
    """
    sizes = wide(xhat).abs()
    sizes = sizes.movedim(1, 0).flatten(1) if per_channel else sizes.flatten()[None]
    share = torch.count_nonzero(sizes > threshold, 1) / sizes.new_tensor(sizes.shape[1])
    share = torch.where(sizes.amax(1).isnan(), float("nan"), share)
    return share if per_channel else share[0]


@PROBES.register("large_values")
def large_values_probe(threshold: float = 6.0) -> Probe:
    """`large_values` of what the layer makes of its input, before γ and β."""
    if not threshold >= 0:
        raise SpecError(f"threshold={threshold} should be a number of standard deviations, 0 or more")
    return Probe("large_values", "standard", lambda _, s: large_values(s.xhat, threshold), why_not)
