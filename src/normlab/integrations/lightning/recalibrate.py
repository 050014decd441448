"""Running statistics of the weights that are evaluated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import lightning.pytorch as L
from torch import nn
from torch.utils.data import DataLoader

from normlab.errors import SpecError
from normlab.integrations.lightning.order import require_order
from normlab.integrations.shared import same_random_numbers
from normlab.surgery import recalibrate


class RecalibrateOnEval(L.Callback):
    """Take the running statistics anew from training data before validation and test; see `surgery.recalibrate`.

    They stay: the metric, the checkpoint that is chosen by it and the model belong together. Weights, and random
    numbers, are as without it, bit for bit, but for layers that read them in training, as batch renormalization does.

    Lightning's WeightAveraging averages running statistics too (use_buffers=True is its default), so that they lag
    behind the averaged weights: list this callback after it, and the averaged copy is what is recalibrated. An average
    that the module keeps itself is recalibrated with it if `forward` runs it too.

    Args:
        batches: so many at most; None is all of the loader.
        loader: of training data, and a second one, not that which trains; None reads the trainer's, which `fit` has.
        forward: runs the module on a batch, which has been through the module's and datamodule's transfer hooks; by
            default module(batch), module(batch[0]) or module(**batch).

    Raises:
        SpecError: while it is set up, a WeightAveraging comes after it; at the first evaluation, nothing to read from
            or to recalibrate.
    """

    def __init__(
        self,
        batches: int | None = 200,
        *,
        loader: Iterable[Any] | None = None,
        forward: Callable[[nn.Module, Any], Any] | None = None,
    ) -> None:
        self.batches, self.loader, self.forward = batches, loader, forward

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """See that averaged weights come first."""
        require_order(trainer, self, averaging_first=True)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Recalibrate, but not for the sanity check."""
        if not trainer.sanity_checking:
            self._recalibrate(trainer, pl_module)

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Recalibrate."""
        self._recalibrate(trainer, pl_module)

    def _recalibrate(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        loader = training_loader(trainer) if self.loader is None else self.loader
        batches = _transferred(trainer, pl_module, loader)
        generator = loader.generator if isinstance(loader, DataLoader) else None
        with same_random_numbers(generator), trainer.precision_plugin.forward_context():
            recalibrate(pl_module, batches, batches=self.batches, forward=self.forward)


def training_loader(trainer: L.Trainer) -> DataLoader[Any]:
    """What `fit` trains with.

    Raises:
        SpecError: there is none, or it cannot be read while it trains.
    """
    loader = trainer.train_dataloader
    if isinstance(loader, DataLoader) and not loader.persistent_workers:
        return loader
    why = "the workers of the one that trains persist, and it cannot be read a second time while it is"
    if not isinstance(loader, DataLoader):
        why = "there is none outside fit" if loader is None else f"{type(loader).__name__} is not one DataLoader"
    raise SpecError(f"RecalibrateOnEval(loader=...) is needed, with a loader of training data: {why}")


def _transferred(trainer: L.Trainer, module: L.LightningModule, loader: Iterable[Any]) -> Iterator[Any]:
    """Batches as Lightning's loops give them to a step; hooks may normalize images there."""
    for batch in loader:
        converted = trainer.precision_plugin.convert_input(batch)
        converted = module._on_before_batch_transfer(converted)  # pyright: ignore[reportPrivateUsage] - the datamodule's too
        yield trainer.strategy.batch_to_device(converted)
