"""Probes in a Lightning training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import lightning.pytorch as L
import torch

from normlab.integrations.lightning.recipes import submodule
from normlab.probes import Probing, probe
from normlab.probes.hooks.targets import Where
from normlab.probes.loggers import Log


class NormProbe(L.Callback):
    """`normlab.probe` while `fit` trains: what it measures goes to the trainer's loggers.

    Keys are `norm/<module>/<probe>`. Steps are those of the optimizer, and go on from `global_step`. Validation is not
    measured, gradients are divided by the scale of 16-bit precision, and hooks are gone when training ends or raises.

    Args:
        probes, every, steps, where, eager: as of `normlab.probe`.
        network: the submodule whose layers are measured, by their names in it; None for the module itself.
        log: as of `normlab.probe`; None for the trainer's loggers.

    Attributes:
        probing: of the newest training, with its `rows`; None before the first.

    Raises:
        SpecError: when training starts, as `normlab.probe`; no such network.
    """

    def __init__(
        self,
        probes: str | Sequence[str],
        *,
        every: int | None = None,
        steps: Iterable[int] | None = None,
        where: Where | None = None,
        eager: bool = False,
        network: str | None = None,
        log: Log | None = None,
    ) -> None:
        self.probes, self.every, self.steps = probes, every, steps
        self.where, self.eager, self.network = where, eager, network
        self._log = log  # Lightning puts a method of its own in `log`
        self.probing: Probing | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin."""
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        self.probing = probe(
            pl_module if self.network is None else submodule(pl_module, self.network),
            self.probes,
            every=self.every,
            steps=self.steps,
            start=trainer.global_step,
            log=_TrainersLoggers(trainer) if self._log is None else self._log,
            where=self.where,
            scaler=scaler if isinstance(scaler, torch.amp.GradScaler) else None,
            eager=self.eager,
        )
        self.probing.__enter__()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End."""
        if self.probing is not None:
            self.probing.__exit__(None, None, None)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """End, without what the interrupted step has measured."""
        if self.probing is not None:
            self.probing.close()


class _TrainersLoggers:
    def __init__(self, trainer: L.Trainer) -> None:
        self.trainer = trainer

    def log(self, values: dict[str, float], step: int) -> Any:
        for logger in self.trainer.loggers:
            logger.log_metrics(values, step=step)
