"""What a landscape costs: passes, counted before, and how long one takes here."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import nn

from normlab.inputs import sandbox
from normlab.landscape import parts
from normlab.landscape.batches import Batches
from normlab.landscape.parts import Settings
from normlab.page import format as fmt
from normlab.surgery import frozen_stats, norm_sites

ROUNDS = 2


@dataclass(frozen=True)
class Cost:
    """Passes for one network, and the seconds that one takes.

    Args:
        full: forward and backward. forward: forward only. evaluations: of the accuracy, each over all batches.
    """

    full: int
    forward: int
    evaluations: int
    batches: int
    seconds_full: float
    seconds_forward: float

    @property
    def seconds(self) -> float:
        """For one network."""
        only_forward = self.forward + self.evaluations * self.batches
        return self.full * self.seconds_full + only_forward * self.seconds_forward

    @property
    def ticks(self) -> int:
        """Measured passes of one network, in the units that progress is told in."""
        return self.full + self.forward + self.evaluations

    def text(self, networks: int) -> str:
        """`about 40 s: 2 networks, 420 passes forward and backward (30 ms) and ...`."""
        forward = self.forward + self.evaluations * self.batches
        text = (
            f"expected: about {fmt.duration(max(1, networks * self.seconds))}, for {fmt.plural(networks, 'network')} "
            f"with {fmt.count(self.full)} passes forward and backward ({1000 * self.seconds_full:.0f} ms each) and "
            f"{fmt.count(forward)} forward ({1000 * self.seconds_forward:.0f} ms)"
        )
        return text.replace(fmt.NBSP, " ")


def estimate(model: nn.Module, batches: Batches, s: Settings) -> Cost:
    """Count passes, and time some of them on the first batch; leaves no trace."""
    layers = sum(any(p.requires_grad for p in m.parameters(recurse=False)) for m in model.modules())
    at, few = len(s.at), len(s.few)
    full = s.steps + at * (1 + len(s.step_sizes)) * ("curves" in s.parts)
    full += few * ((1 + layers) * ("ics" in s.parts) + ("lipschitz" in s.parts))
    full += len(parts.SCOPES) * len(parts.RHOS) * ("sharpness" in s.parts)
    forward = at + few * ("ics" in s.parts) + len(parts.SCOPES) * len(parts.RHOS) * ("sharpness" in s.parts)
    forward += parts.SLICE_POINTS * ("slice" in s.parts) + parts.SURFACE_POINTS**2 * ("surface" in s.parts)
    forward += len(batches.inputs) * (not s.as_they_are)  # for running statistics
    each = 2 + parts.ORDERS * (parts.ABLATION_POINTS - 1) + parts.CHANNELS
    ablated = "ablation" in s.parts and batches.classified
    evaluations = min(parts.LAYERS, len(norm_sites(model))) * each if ablated else 0
    return Cost(full, forward, evaluations, len(batches.inputs), *_time(model, batches))


def _time(model: nn.Module, batches: Batches) -> tuple[float, float]:
    full: list[float] = []
    forward: list[float] = []
    with sandbox(model, batches.device), frozen_stats(model):
        model.train()
        for _ in range(ROUNDS):
            start = _now(batches.device)
            loss = batches.loss_on(model, 0)
            middle = _now(batches.device)
            if loss.requires_grad:
                loss.backward()
            full.append(_now(batches.device) - start)
            forward.append(middle - start)
    return min(full), min(forward)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
