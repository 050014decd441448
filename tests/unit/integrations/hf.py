"""The small network as HF Trainer wants it."""

from __future__ import annotations

from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from tests.unit.integrations.problems import examples


class Classifier(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x, labels=None):
        logits = self.net(x)
        return {"loss": F.cross_entropy(logits.float(), labels), "logits": logits}


def dicts(n: int = 24) -> list[dict]:
    return [{"x": x, "labels": t} for x, t in zip(*examples(n), strict=True)]


def loader(**options) -> DataLoader:
    return DataLoader(dicts(), batch_size=4, **options)


class InOrder(Trainer):
    """Reads the examples as they come."""

    def get_train_dataloader(self):
        return loader()


def arguments(path, **options) -> TrainingArguments:
    quiet = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True, "logging_strategy": "no"}
    sizes = {"per_device_train_batch_size": 4, "num_train_epochs": 2, "use_cpu": True}
    return TrainingArguments(str(path), **quiet | sizes | options)
