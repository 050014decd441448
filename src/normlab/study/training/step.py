"""One step of an optimizer: forward and backward passes, clipping, averaging."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from normlab.optim import SAM
from normlab.study.distributed import World
from normlab.study.training.arithmetic import Arithmetic
from normlab.study.training.average import Average

Loss = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]


def cross_entropy(smoothing: float) -> Loss:
    """Mean cross-entropy of a network's scores, with label smoothing; and the scores."""

    def loss(net: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        scores = net(images)
        return F.cross_entropy(scores, labels, label_smoothing=smoothing), scores

    return loss


@dataclass(frozen=True)
class Step:
    """What happens to each batch.

    Attributes:
        net: what is trained; `model`, or what shares its gradients with other processes.
        loss: of a batch; called twice where the optimizer is SAM.
        largest_norm: of the gradients of all parameters together; of SAM's, those that it steps with.
    """

    net: nn.Module
    model: nn.Module
    optimizer: Optimizer
    loss: Loss
    arithmetic: Arithmetic
    world: World
    average: Average | None = None
    largest_norm: float | None = None

    def __call__(self, images: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Train on a batch.

        Args:
            images, labels: of this process's part of the batch.
            count: examples of the whole batch.

        Returns:
            The loss of this part, weighed so that the mean over processes is the batch's, and how many of its
            examples were classified correctly; both at the weights before the step.
        """
        self.optimizer.zero_grad(set_to_none=True)
        loss, scores = self._pass(images, labels, count)
        if isinstance(self.optimizer, SAM):
            self.optimizer.first_step()
            self._pass(images, labels, count)
        if self.largest_norm is not None:
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, self.largest_norm, foreach=True)
        if isinstance(self.optimizer, SAM):
            self.optimizer.second_step()
        else:
            self.optimizer.step()
        if self.average is not None:
            self.average.update(self.model)
        return loss, (scores.argmax(1) == labels).sum()

    def _pass(self, images: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
        with self.arithmetic.autocast():
            loss, scores = self.loss(self.net, images, labels)
        loss = self.world.weigh(loss, count)
        loss.backward()
        return loss.detach(), scores.detach()

    def forget(self) -> None:
        """Free the gradients, and what SAM keeps between its passes, after a step that failed."""
        if isinstance(self.optimizer, SAM):
            self.optimizer.restore()
        self.optimizer.zero_grad(set_to_none=True)
