"""Probes in a training of HF Trainer; `normlab.integrations.transformers` gives it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import MLflowCallback, TensorBoardCallback, WandbCallback

from normlab.errors import require
from normlab.probes import Logger, MLflow, Probing, TensorBoard, WandB, probe
from normlab.probes.hooks.targets import Where
from normlab.probes.loggers import Log


class NormProbe(TrainerCallback):
    """`normlab.probe` while the Trainer trains: what it measures goes where the Trainer reports to.

        trainer.add_callback(NormProbe(trainer, ["gradient_factor", "stable_rank"], every=100))

    Keys are `norm/<module>/<probe>`. Steps are those of the optimizer, and go on from `global_step`. Evaluation is not
    measured, and gradients are divided by the scale of fp16. The Trainer has no event for an exception: after one, call
    `close`, or train again, which does so.

    Args:
        trainer: that it is added to.
        probes, every, steps, where, eager: as of `normlab.probe`.
        log: as of `normlab.probe`; None for TensorBoard, W&B and MLflow, whichever `report_to` names.

    Attributes:
        probing: of the newest training, with its `rows`; None before the first.

    Raises:
        SpecError: no Trainer; when training starts, as `normlab.probe`.
    """

    def __init__(
        self,
        trainer: Trainer,
        probes: str | Sequence[str],
        *,
        every: int | None = None,
        steps: Iterable[int] | None = None,
        where: Where | None = None,
        eager: bool = False,
        log: Log | None = None,
    ) -> None:
        require(trainer, Trainer, "NormProbe(trainer, probes) takes the Trainer that it is added to first")
        self.trainer, self.probes, self.every, self.steps = trainer, probes, every, steps
        self.where, self.eager, self.log = where, eager, log
        self.probing: Probing | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Begin."""
        self.close()
        model, scaler = self.trainer.model_wrapped, self.trainer.accelerator.scaler
        assert model is not None
        self.probing = probe(
            model,
            self.probes,
            every=self.every,
            steps=self.steps,
            start=state.global_step,
            log=_reporters(self.trainer) if self.log is None else self.log,
            where=self.where,
            scaler=scaler if isinstance(scaler, torch.amp.GradScaler) else None,
            eager=self.eager,
        )
        self.probing.__enter__()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """End."""
        if self.probing is not None:
            self.probing.__exit__(None, None, None)

    def close(self) -> None:
        """End without what an interrupted step has measured; nothing happens where training has ended."""
        if self.probing is not None:
            self.probing.close()


def _reporters(trainer: Trainer) -> list[Logger]:
    """Those of the Trainer's own callbacks that have begun by now, which is before the others."""
    found: list[Logger] = []
    for callback in trainer.callback_handler.callbacks if trainer.is_world_process_zero() else ():
        if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
            found.append(TensorBoard(callback.tb_writer))
        elif isinstance(callback, WandbCallback):
            found.append(WandB(callback._wandb.run))  # pyright: ignore[reportPrivateUsage]
        elif isinstance(callback, MLflowCallback):
            found.append(MLflow(callback._ml_flow))  # pyright: ignore[reportPrivateUsage]
    return found
