"""HF Trainer: recipes, probes, recalibration before evaluation, and SAM; `pip install 'normlab[transformers]'`.

    recipe = normlab.recipe("revisited(scale=0.1, norms='all', input_norm=False)")
    recipe.prepare(model)
    optimizer, scheduler = recipe_optimizers(recipe, model, args)
    trainer = SAMTrainer(  # or Trainer, without SAM
        model,
        args,
        train_dataset=data,
        callbacks=[NormRecipe(recipe), RecalibrateOnEval(DataLoader(data, 64))],
        optimizers=(SAM(optimizer, model, rho=0.1, scope="norm"), scheduler),
    )

Without `optimizers` the Trainer makes groups of its own, in which scales learn like everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from normlab.errors import SpecError, Unavailable
from normlab.integrations.shared import (
    Undone,
    as_recipe,
    check_undone,
    follow_rules,
    listens,
    lr_share,
    report,
    same_random_numbers,
)
from normlab.layers import set_progress
from normlab.optim import SAM
from normlab.recipes import Recipe
from normlab.surgery import recalibrate

try:
    from accelerate.optimizer import AcceleratedOptimizer
    from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

    from normlab.integrations.transformers_probe import NormProbe
except ImportError as error:
    raise Unavailable(f"transformers cannot be imported: {error}; pip install 'normlab[transformers]'") from None

__all__ = ["NormProbe", "NormRecipe", "RecalibrateOnEval", "SAMTrainer", "recipe_optimizers"]


class NormRecipe(TrainerCallback):
    """Train by a recipe: check optimizer and scheduler, tell layers how far training is.

    The network is prepared before the Trainer is made, whose optimizer has to be that of `recipe_optimizers`, since
    the Trainer's own lets everything learn at one rate. When training starts, `recipe.verify` sees optimizer, scheduler
    and model, and training rules of layers are attached to the optimizer. Before each step `set_progress` is called, if
    there are layers that listen, with t = global_step / max_steps and the `lr_share` of the optimizer.

    Args:
        recipe: it, or its spec.
        undone: "raise" or "warn" where something undoes the recipe.

    Raises:
        SpecError: when training starts, what undoes the recipe.
    """

    def __init__(self, recipe: Recipe | str, *, undone: Undone = "raise") -> None:
        check_undone(undone)
        self.recipe = as_recipe(recipe)
        self.undone: Undone = undone
        self._listens = False

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: nn.Module,
        optimizer: Optimizer,
        lr_scheduler: object,
        **_: Any,
    ) -> None:
        """Attach training rules, and raise or warn where something undoes the recipe."""
        follow_rules(_inside(optimizer), model)
        report(self.recipe, self.recipe.verify(optimizer, lr_scheduler, model=model), self.undone)
        self._listens = listens(model)

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: nn.Module,
        optimizer: Optimizer,
        **_: Any,
    ) -> None:
        """Tell the layers."""
        if self._listens:
            set_progress(model, min(1.0, state.global_step / state.max_steps), lr_share=lr_share(optimizer))


def recipe_optimizers(
    recipe: Recipe | str,
    model: nn.Module,
    args: TrainingArguments,
    *,
    optimizer: Callable[[list[dict[str, Any]]], Optimizer] | None = None,
) -> tuple[Optimizer, LRScheduler | None]:
    """For `Trainer(optimizers=...)`: an optimizer with the recipe's groups, at `learning_rate` and `weight_decay`.

    In place of the scheduler is None, so that the Trainer makes the one that `args` say, which knows how many steps
    there are and multiplies the rate of each group.

    Args:
        model: prepared.
        optimizer: makes one of groups; None is what `args.optim` says, with its arguments.

    Raises:
        SpecError: an `args.optim` that makes groups of its own; and as `Recipe.param_groups`.
    """
    groups = as_recipe(recipe).param_groups(model, lr=args.learning_rate, weight_decay=args.weight_decay)
    if optimizer is not None:
        return optimizer(groups), None
    cls, arguments = Trainer.get_optimizer_cls_and_kwargs(args, model)  # pyright: ignore[reportArgumentType] - any module
    own = {"params", "model", "optimizer_dict"} & set(arguments)
    if own or not isinstance(cls, type) or not issubclass(cls, Optimizer):
        raise SpecError(f"optim={args.optim} makes parameter groups of its own: pass optimizer=lambda groups: ...")
    return cls(groups, **arguments), None


class RecalibrateOnEval(TrainerCallback):
    """Take the running statistics anew from training data before evaluations in training; see `surgery.recalibrate`.

    They stay: the metric, the checkpoint that is saved after it and the model belong together. Weights, and random
    numbers, are as without it, bit for bit, but for layers that read them in training, as batch renormalization does.
    Before a `trainer.evaluate()` of your own, and after training, call `recalibrate`: no event comes before those.

    Args:
        loader: of training data: a plain DataLoader, not that which trains.
        batches: so many at most; None is all of the loader.
        forward: runs the model on a batch; by default model(**batch), model(batch[0]) or model(batch).
    """

    def __init__(
        self,
        loader: Iterable[Any],
        batches: int | None = 200,
        *,
        forward: Callable[[nn.Module, Any], Any] | None = None,
    ) -> None:
        self.loader, self.batches, self.forward = loader, batches, forward

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, model: nn.Module, **_: Any
    ) -> None:
        """Recalibrate, where an evaluation follows."""
        if control.should_evaluate:
            generator = self.loader.generator if isinstance(self.loader, DataLoader) else None
            with same_random_numbers(generator):
                recalibrate(model, self.loader, batches=self.batches, forward=self.forward)

    on_epoch_end = on_step_end


class SAMTrainer(Trainer):
    """A Trainer whose optimizer is SAM, with gradient accumulation, `max_grad_norm` and mixed precision.

    All micro-batches of a step are run at w and again at w'; they are kept until then. The loss that is logged is that
    at w. Gradients of the second pass are clipped, and `grad_norm` is theirs. With another Trainer it is a mixin:
    `class SAMSeq2Seq(SAMTrainer, Seq2SeqTrainer)`.

    Raises:
        SpecError: at the first step, an optimizer that is not `normlab.optim.SAM`.
    """

    _window: tuple[Any, ...] = ()

    def training_step(
        self, model: nn.Module, inputs: dict[str, Tensor | Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Gradients at w; after the last micro-batch of a step, those at w' instead."""
        sam = _inside(self.optimizer)
        if not isinstance(sam, SAM):
            raise SpecError(
                f"{type(self).__name__} is a SAMTrainer, and its optimizer is {type(sam).__name__}: "
                "pass optimizers=(SAM(optimizer, model), scheduler)"
            )
        try:
            loss = super().training_step(model, inputs, num_items_in_batch)
            self._window = (*self._window, inputs)
            if self.accelerator.sync_gradients:
                sam.first_step()
                self._again(model, num_items_in_batch)
        except BaseException:
            sam.restore()
            self._window = ()
            raise
        return loss

    def _again(self, model: nn.Module, num_items_in_batch: Tensor | int | None) -> None:
        window, self._window = self._window, ()
        for inputs in window[:-1]:
            with self.accelerator.no_sync(model):
                super().training_step(model, inputs, num_items_in_batch)
        super().training_step(model, window[-1], num_items_in_batch)


def _inside(optimizer: Any) -> Any:
    """The optimizer that accelerate has wrapped."""
    return optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer
