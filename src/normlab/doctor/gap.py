"""How far a model's outputs in eval mode are from those by batch statistics, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from normlab.doctor.base import Evidence, NotChecked
from normlab.doctor.case import Case
from normlab.doctor.layers import batches, shift, stored
from normlab.errors import SpecError
from normlab.inputs import values_of
from normlab.surgery import stats_mode

NOTABLE, FEWEST = 0.5, 4
SURE = 2.0


@dataclass(frozen=True)
class Gap:
    """Distances of outputs, rms over the batch, in standard deviations of those by batch statistics.

    Args:
        outputs: in eval mode from those by the batch. noise: of two halves, each by its own batch, from those.
        shifts: by layer, how far the batch's means are from the running ones, in standard deviations.
    """

    outputs: float
    noise: float
    shifts: dict[str, float]

    @property
    def notable(self) -> bool:
        """Large, and not for want of examples."""
        return not self.outputs <= max(NOTABLE, SURE * self.noise)

    def evidence(self, start: str) -> Evidence:
        """The sentence, and the layers with the largest shifts first in line."""
        worst = sorted(self.shifts, key=lambda name: -self.shifts[name])[:3]
        said = ", ".join(f"{name or 'the model'} by {self.shifts[name]:.2g}" for name in worst)
        text = f"{start} are {_number(self.outputs)} standard deviations from those by batch statistics, and those by "
        text += f"halves of the batch {_number(self.noise)}; means of layers are off, in σ: {said}"
        return Evidence(text, tuple(worst), {"gap": self.outputs, "noise": self.noise, "shift": self.shifts[worst[0]]})


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def gap(case: Case) -> Gap:
    """Measure it.

    Raises:
        NotChecked: no running statistics of any batch; too few examples; NaN in them; the model does not run.
    """
    if not case.keepers:
        raise NotChecked("no layer keeps running statistics")
    inputs, calls = case.inputs, case.training.calls
    assert inputs is not None
    if all(batches(site) == 0 for site, _ in case.keepers):
        raise NotChecked("no layer has counted a batch yet: the running statistics are those of a new model")
    if inputs.size < FEWEST:
        raise NotChecked(f"{inputs.size} examples are too few to tell: {FEWEST} or more are wanted")
    if not inputs.finite:
        raise NotChecked("there are NaN or infinite values in the batch")
    if not all(value.isfinite().all() for site, kept in case.keepers for value in stored(site, kept).values()):
        raise NotChecked("the running statistics are not finite: NL003 says where")
    keeps = {site.name: kept for site, kept in case.keepers}
    shifts = {
        call.site.name: distance
        for call in calls
        if call.site.name in keeps and (distance := shift(call, keeps[call.site.name])) is not None
    }
    if not shifts:
        raise NotChecked("no layer with running means was called")
    return Gap(*_distances(case), shifts)


def _distances(case: Case) -> tuple[float, float]:
    inputs = case.inputs
    assert inputs is not None
    size, half = inputs.size, inputs.size // 2
    halves = inputs.first(half), inputs.first(size - half, half)
    with case.evaluating() as model:
        by_running = values_of(inputs.call(model, case.device))
        try:
            with stats_mode(model, "batch"):
                by_batch = values_of(inputs.call(model, case.device))
                parts = [values_of(part.call(model, case.device)) for part in halves]
        except SpecError as error:
            raise NotChecked(f"it cannot be run by batch statistics: {error}") from None
    by_halves = [torch.cat(pair) for pair in zip(*parts, strict=True) if all(value.dim() for value in pair)]
    whole = [value for value in by_batch if value.dim()]
    return _distance(by_running, by_batch), _distance(by_halves, whole)


def _distance(one: list[Tensor], other: list[Tensor]) -> float:
    """rms difference over the rms deviation of the second from its mean over the examples."""
    pairs = [(a.double(), b.double()) for a, b in zip(one, other, strict=True) if a.shape == b.shape and b.numel()]
    if not pairs:
        raise NotChecked("the model gives no outputs that could be compared")
    difference = sum(float((a - b).square().sum()) for a, b in pairs)
    spread = sum(float((b - b.mean(0, keepdim=b.dim() > 0)).square().sum()) for _, b in pairs)
    return (difference / max(spread, 1e-30)) ** 0.5
