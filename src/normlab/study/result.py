"""What is kept of a finished run."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from normlab.study.job import Strict


class RunResult(Strict):
    """What is kept of a finished run.

    Attributes:
        status: "diverged" is a result: training became non-finite.
        metrics: by name; None stands for a non-finite value.
        curves: name → one value per logged row; None for a non-finite value.
        correct: hexadecimal, bit-packed: which test examples were classified correctly; None where unknown.
        examples: number of those test examples.
        seconds: computing time.
    """

    key: str
    seed: int
    function: str
    job: Any
    status: Literal["ok", "diverged"]
    reason: str = ""
    counted_as: str = ""
    metrics: dict[str, float | None]
    curves: dict[str, list[float | None]]
    correct: str | None = None
    examples: int = 0
    seconds: float
    environment: dict[str, str]

    @model_validator(mode="after")
    def _whole(self) -> RunResult:
        if self.correct is not None and len(bytes.fromhex(self.correct)) != -(-self.examples // 8):
            raise ValueError(f"correct is not of {self.examples} examples")
        return self

    def correctness(self) -> NDArray[np.bool_] | None:
        """[examples] bool, or None where the training function did not say."""
        if self.correct is None:
            return None
        packed = np.frombuffer(bytes.fromhex(self.correct), dtype=np.uint8)
        return np.unpackbits(packed, count=self.examples).astype(bool)
