"""What a run in training keeps, and how a checkpoint holds it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FORMAT = 2  # of a checkpoint; one of another format is left alone, and the run starts anew


@dataclass
class Best:
    """The network of the epoch that is tested, as it was then; `epoch` counts from 0."""

    epoch: int
    validation_accuracy: float
    validation_loss: float
    state: dict[str, Tensor]


@dataclass
class Midway:
    """How far an epoch is.

    Attributes:
        step: steps done.
        loss, correct: sum of losses and number of correct examples in them, on the device.
        began: seconds of the run at the epoch's start.
        generators: torch's default generators, as the next step wants them; None at the epoch's start.
    """

    step: int
    loss: Tensor
    correct: Tensor
    began: float
    generators: list[Tensor] | None = None

    @classmethod
    def start(cls, device: str, began: float) -> Midway:
        """Nothing done."""
        wide = torch.float32 if torch.device(device).type == "mps" else torch.float64  # all that Apple's GPUs have
        return cls(
            0, torch.zeros((), dtype=wide, device=device), torch.zeros((), dtype=torch.int64, device=device), began
        )


def generators(device: str) -> list[Tensor]:
    """State of torch's default generators that dropout draws from."""
    of_gpu = [torch.cuda.get_rng_state(device)] if torch.device(device).type == "cuda" else []
    return [torch.get_rng_state(), *of_gpu]


def set_generators(device: str, states: list[Tensor]) -> None:
    """Put them back."""
    torch.set_rng_state(states[0].cpu())
    for state in states[1:]:
        torch.cuda.set_rng_state(state.cpu(), device)
