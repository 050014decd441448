"""SAM under automatic optimization."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.loops.optimization.automatic import ClosureResult
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer

from normlab.errors import SpecError
from normlab.optim import SAM


class SAMModule(L.LightningModule):
    """A LightningModule whose automatic optimization is SAM's, with `accumulate_grad_batches`, clipping and precision.

    All micro-batches of a step are run at w and again at w'; they are kept until then. Without this class SAM would see
    the last one alone at w'. Gradients of the second pass are clipped, and `on_before_optimizer_step` is called, once.
    What `training_step` logs in the second pass is dropped; metrics that it updates can ask
    `self.optimizers().perturbed`. `outputs` of `on_train_batch_end` are those at w'. An own `on_train_batch_start` or
    `optimizer_step` calls super()'s.

    Raises:
        SpecError: at the first step, an optimizer that is not `normlab.optim.SAM`.
    """

    _window: tuple[tuple[Any, int], ...] = ()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        """Keep the micro-batch."""
        earlier = self._window if batch_idx % self.trainer.accumulate_grad_batches else ()
        self._window = (*earlier, (batch, batch_idx))

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Perturb by the gradients at w, and step with those at w'."""
        sam = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        window, self._window = self._window, ()
        if not isinstance(sam, SAM) or optimizer_closure is None:
            raise SpecError(f"{type(self).__name__} is a SAMModule: configure_optimizers should give normlab.optim.SAM")
        if not window or window[-1][1] != batch_idx:
            raise SpecError(f"{type(self).__name__}.on_train_batch_start should call super().on_train_batch_start")

        def again() -> Any:
            with _nothing_logged(self):
                for micro_batch in window[:-1]:
                    self._again(sam, *micro_batch)
                return optimizer_closure()

        try:
            optimizer_closure()
            sam.first_step()
            super().optimizer_step(epoch, batch_idx, optimizer, again)
        except BaseException:
            sam.restore()
            raise

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip for the optimizer inside: Lightning clips for none that unscales gradients in its step, as SAM does."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if isinstance(scaler, GradScaler):
            scaler.unscale_(optimizer)
        inside = optimizer.base if isinstance(optimizer, SAM) else optimizer
        super().configure_gradient_clipping(inside, gradient_clip_val, gradient_clip_algorithm)

    def _again(self, sam: SAM, batch: Any, batch_idx: int) -> None:
        strategy = self.trainer.strategy
        takes_index = is_param_in_hook_signature(self.training_step, "batch_idx", min_args=2)
        with strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else nullcontext():
            output = strategy.training_step(batch, batch_idx) if takes_index else strategy.training_step(batch)
            loss = ClosureResult.from_training_step_output(output, self.trainer.accumulate_grad_batches).closure_loss
            if isinstance(loss, Tensor):
                strategy.backward(loss, sam)


@contextmanager
def _nothing_logged(module: L.LightningModule) -> Generator[None]:
    def drop(*_: Any, **__: Any) -> None: ...

    vars(module)["log"] = drop
    try:
        yield
    finally:
        del vars(module)["log"]
