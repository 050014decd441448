"""In which numbers a network computes."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from normlab.errors import SpecError
from normlab.study.job import TrainSpec


@dataclass(frozen=True)
class Arithmetic:
    """Precision and compiler of a run.

    Weights, gradients of weights, statistics and losses are float32 in all of them.

    Attributes:
        precision: "bf16" computes convolutions and matrix products in bfloat16 (autocast), "tf32" with TensorFloat-32,
            "fp32" without.
        compiled: by torch.compile.
        device: "cpu" or "cuda:0".
    """

    precision: Literal["fp32", "tf32", "bf16"]
    compiled: bool
    device: str

    @classmethod
    def of(cls, train: TrainSpec, device: str, processes: int = 1) -> Arithmetic:
        """What the options come to on this device: by default bf16 and compiled on a GPU, neither on a CPU.

        A run of several processes is not compiled: statistics that wait for other processes hang in compiled code.

        Raises:
            SpecError: it is to be compiled all the same.
        """
        if processes > 1 and train.compile:
            raise SpecError(f"train.compile = true: a run of {processes} processes cannot be compiled; leave it out")
        gpu = torch.device(device).type == "cuda"
        precision = train.precision
        if precision == "auto":
            fast = gpu and torch.cuda.is_bf16_supported(including_emulation=False)
            precision = "bf16" if fast else "fp32"
        if precision == "tf32" and not gpu:
            precision = "fp32"
        return cls(precision, (gpu and processes == 1) if train.compile is None else train.compile, device)

    def autocast(self) -> AbstractContextManager[object]:
        """Around forward passes and losses."""
        if self.precision != "bf16":
            return nullcontext()
        return torch.autocast(torch.device(self.device).type, torch.bfloat16)

    @contextmanager
    def applied(self) -> Generator[None, None, None]:
        """torch's switches as this run wants them, and as they were afterwards."""
        matmul: Any = torch.backends.cuda.matmul  # a module without stubs, as the next one
        cudnn: Any = torch.backends.cudnn
        before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
        # cuDNN computes convolutions in TensorFloat-32 unless it is told not to
        matmul.allow_tf32 = cudnn.allow_tf32 = self.precision != "fp32"
        cudnn.benchmark = True
        try:
            yield
        finally:
            matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before

    def compile(self, *models: nn.Module) -> None:
        """Compile these at their first call, if so wanted; in place."""
        if not self.compiled:
            return
        torch.compiler.reset()  # what the compiler remembers of earlier runs counts against a limit of its own
        for model in models:
            model.compile()

    def facts(self) -> dict[str, str]:
        """What a run keeps of it; nothing of plain float32."""
        facts = {"precision": self.precision} if self.precision != "fp32" else {}
        return {**facts, "compiled": "torch.compile"} if self.compiled else facts
