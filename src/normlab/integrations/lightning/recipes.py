"""Training by a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning.pytorch as L
from torch import nn
from torch.optim import Optimizer

from normlab.errors import SpecError, UnknownName
from normlab.integrations.lightning.order import callbacks_of, require_order
from normlab.integrations.lightning.sam import SAMModule
from normlab.integrations.shared import Undone, as_recipe, check_undone, follow_rules, listens, lr_share, report
from normlab.layers import set_progress
from normlab.optim import SAM
from normlab.recipes import Finding, Recipe


class NormRecipe(L.Callback):
    """Train by a recipe: prepare the network, check optimizers and schedulers, tell layers how far training is.

    The network is prepared when `fit` is set up, before optimizers are made and before a checkpoint is loaded, once.
    A run that resumes is prepared too, so that it has the modules of the checkpoint, which then overwrites all values.
    `load_from_checkpoint`, `test` in another process and such know of no callback: for them, as for networks that have
    been trained, prepare in `__init__` (`self.model = recipe.prepare(...)`) and pass prepare=False.

    When training starts, `recipe.verify` sees each optimizer that holds parameters of the network, with its schedulers
    and, if it is the only one, with all parameters of the module; training rules of layers are attached to it. Before
    each step `set_progress` is called, if there are layers that listen: t is the share of `max_epochs` or `max_steps`,
    whichever is nearer, `lr_share` that of the optimizer.

    Args:
        recipe: it, or its spec.
        network: name of the submodule that it prepares.
        prepare: False for a network that is prepared already.
        undone: "raise" or "warn" where something undoes the recipe.

    Raises:
        SpecError: while it is set up, the network cannot be prepared, or a WeightAveraging comes first in the list; at
            the start of training, what undoes the recipe, no end that layers could be told the distance to, or SAM that
            would accumulate gradients without `SAMModule`.
    """

    def __init__(
        self, recipe: Recipe | str, *, network: str = "model", prepare: bool = True, undone: Undone = "raise"
    ) -> None:
        check_undone(undone)
        self.recipe, self.network, self.prepare = as_recipe(recipe), network, prepare
        self.undone: Undone = undone
        self._prepared: nn.Module | None = None
        self._listens = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Prepare the network."""
        if stage != "fit" or not self.prepare:
            return
        require_order(trainer, self, averaging_first=False)
        network = submodule(pl_module, self.network)
        if network is not self._prepared:
            self._prepared = self.recipe.prepare(network)
            pl_module.set_submodule(self.network, self._prepared)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Attach training rules, and raise or warn where something undoes the recipe."""
        held = set(map(id, submodule(pl_module, self.network).parameters()))
        findings: list[Finding] = []
        for optimizer in trainer.optimizers:
            _check_accumulation(trainer, pl_module, optimizer)
            if held & {id(p) for group in optimizer.param_groups for p in group["params"]}:
                follow_rules(optimizer, pl_module)
                findings += self._verify(trainer, pl_module, optimizer)
        report(self.recipe, findings, self.undone)
        self._listens = listens(pl_module)

    def _verify(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> Iterator[Finding]:
        model = pl_module if len(trainer.optimizers) == 1 else None
        configs = [
            c for c in trainer.lr_scheduler_configs if c.scheduler.optimizer.param_groups is optimizer.param_groups
        ]
        for scheduler in [config.scheduler for config in configs] or [None]:
            yield from self.recipe.verify(optimizer, scheduler, model=model)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Tell the layers."""
        if self._listens and batch_idx % trainer.accumulate_grad_batches == 0:
            set_progress(pl_module, _done(trainer, batch_idx), lr_share=lr_share(trainer.optimizers[0]))


def param_groups(module: L.LightningModule, *, lr: float, weight_decay: float = 0.0) -> list[dict[str, Any]]:
    """For `configure_optimizers`: groups of all the module's parameters, by the recipe of the trainer's NormRecipe.

    Args:
        lr, weight_decay: as for `Recipe.param_groups`.

    Raises:
        SpecError: the trainer has no NormRecipe, or several; and as `Recipe.param_groups`.
    """
    found = [callback for callback in callbacks_of(module.trainer) if isinstance(callback, NormRecipe)]
    if len(found) != 1:
        raise SpecError(f"param_groups takes the recipe of the trainer's NormRecipe, and it has {len(found)} of them")
    return found[0].recipe.param_groups(module, lr=lr, weight_decay=weight_decay)


def submodule(module: L.LightningModule, name: str) -> nn.Module:
    """The part of the module that has this name.

    Raises:
        UnknownName: there is none.
    """
    known = {key for key, _ in module.named_modules() if key}
    if name not in known:
        children = [key for key, _ in module.named_children()]
        raise UnknownName("network", name, children, where=f"{type(module).__name__}: ")
    return module.get_submodule(name)


def _check_accumulation(trainer: L.Trainer, module: L.LightningModule, optimizer: Optimizer) -> None:
    batches = trainer.accumulate_grad_batches
    if (
        isinstance(optimizer, SAM)
        and module.automatic_optimization
        and batches > 1
        and not isinstance(module, SAMModule)
    ):
        raise SpecError(
            f"with accumulate_grad_batches={batches} SAM would see only the last micro-batch at perturbed weights: "
            f"derive {type(module).__name__} from normlab.integrations.lightning.SAMModule"
        )


def _done(trainer: L.Trainer, batch_idx: int) -> float:
    """The share of training that is done, by epochs or steps, whichever ends it first."""
    shares: list[float] = []
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        shares.append((trainer.current_epoch + batch_idx / trainer.num_training_batches) / trainer.max_epochs)
    if trainer.max_steps > 0:
        shares.append(trainer.global_step / trainer.max_steps)
    if not shares:
        raise SpecError(
            "there are layers that depend on how much of the training is done: give max_epochs or max_steps"
        )
    return min(1.0, max(shares))
