"""Drift of β from its initial value."""

from __future__ import annotations

from normlab.probes.base import PROBES, Probe
from normlab.probes.drift import drift_probe


@PROBES.register("bias_drift")
def bias_drift_probe(initial: float | None = None) -> Probe:
    """`drift` of β: keys `bias_drift/mean`, `/std`, `/max`, and `/ratio` where it did not start at 0.

    Args:
        initial: β₀ of all layers; None for the values at the start of the context.
    """
    return drift_probe("bias", initial)
