"""The small network as a LightningModule, and its trainer."""

from __future__ import annotations

import lightning.pytorch as L
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from normlab.optim import SAM
from tests.unit.integrations.problems import RHO, examples, loss_of, network, sgd


class Net(L.LightningModule):
    def __init__(self, model: nn.Module | None = None) -> None:
        super().__init__()
        self.model = network() if model is None else model
        self.tested = None

    def forward(self, x):
        return self.model(x)

    def training_step(self, batch):
        return loss_of(self.model, batch)

    def validation_step(self, batch):
        self.log("val_loss", loss_of(self.model, batch))

    test_step = validation_step

    def configure_optimizers(self):
        return sgd(self.parameters())


class ByClosure(Net):
    """SAM under manual optimization."""

    automatic_optimization = False

    def configure_optimizers(self):
        return SAM(sgd(self.parameters()), self, RHO, scope="norm")

    def training_step(self, batch):
        sam = self.optimizers()

        def closure():
            sam.zero_grad()
            loss = loss_of(self.model, batch)
            self.manual_backward(loss)
            return loss

        with sam.toggle_model():
            return sam.step(closure)


class ByTwoPasses(ByClosure):
    every = 1
    window = ()

    def training_step(self, batch, batch_idx):
        self.window = (*self.window, batch)
        if len(self.window) < self.every:
            return
        sam = self.optimizers()
        sam.zero_grad()
        self.run_window()
        sam.first_step()
        self.run_window()
        sam.step()
        self.window = ()

    def run_window(self) -> None:
        for batch in self.window:
            self.manual_backward(loss_of(self.model, batch) / self.every)


def loader(*, shuffle: bool = False, size: int = 4, **options) -> DataLoader:
    return DataLoader(TensorDataset(*examples()), batch_size=size, shuffle=shuffle, **options)


def trainer(*callbacks, **options) -> L.Trainer:
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return L.Trainer(
        callbacks=list(callbacks), **{"accelerator": "cpu", "devices": 1, "max_epochs": 2} | quiet | options
    )
