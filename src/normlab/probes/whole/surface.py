"""The loss of a model as a function of its weights, which are put back whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from normlab.errors import SpecError, came
from normlab.probes.whole.calls import require_values
from normlab.surgery import frozen_stats
from normlab.surgery.statistics.borrow import gpus_of, modes_kept, uncompiled

Loss = Callable[[], Tensor]


class Surface:
    """Made by `surface`.

    Args:
        parameters: those that are trained, by name.
        loss_of: gives the loss [] at the weights that the model has.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], loss_of: Loss) -> None:
        self.parameters, self._loss_of = parameters, loss_of
        self.start = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        devices = {parameter.device for parameter in parameters.values() if parameter.is_cuda}
        self._cuda = {device: torch.cuda.get_rng_state(device) for device in devices}
        self._cpu = torch.get_rng_state()

    def loss(self) -> float:
        """At the weights of now; dropout and other noise are the same at every call."""
        with torch.no_grad():
            return float(self._evaluate())

    def gradient(self, of: Sequence[str] | None = None) -> tuple[float, dict[str, Tensor]]:
        """The loss, and its gradient with respect to these parameters, or to all; 0 where it does not depend on one."""
        chosen = {name: self.parameters[name] for name in (self.parameters if of is None else of)}
        with torch.enable_grad():
            loss = self._evaluate()
            if not loss.requires_grad:
                raise SpecError("the loss depends on no parameter: is it computed under torch.no_grad()?")
            found: Any = torch.autograd.grad(loss, list(chosen.values()), allow_unused=True)  # None where unused
        pairs = zip(chosen.items(), found, strict=True)
        return float(loss.detach()), {n: torch.zeros_like(p) if g is None else g.detach() for (n, p), g in pairs}

    @torch.no_grad()
    def move(self, direction: dict[str, Tensor], scale: float) -> None:
        """To the first weights + scale · direction; parameters without one stay where they are."""
        for name, step in direction.items():
            self.parameters[name].copy_(self.start[name] + scale * step.to(self.start[name].dtype))

    def _evaluate(self) -> Tensor:
        torch.set_rng_state(self._cpu)
        for device, state in self._cuda.items():
            torch.cuda.set_rng_state(state, device)
        loss: Any = self._loss_of()
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            came = list(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise SpecError(f"loss() should give one number as a tensor, as cross_entropy(model(x), y) is; got {came}")
        return loss.reshape(())


@contextmanager
def surface(model: nn.Module, loss: Loss, *, training: bool) -> Generator[Surface]:
    """While it lasts, buffers do not move and modules are in training mode or in eval mode; compiled ones run eagerly.

    Weights, training flags and random generators are as before afterwards, bit for bit; gradients are not touched. A
    model in training mode keeps in eval mode what is in eval mode there.

    Args:
        loss: computes the loss of the model on a fixed batch: `lambda: cross_entropy(model(x), y)`.

    Raises:
        SpecError: the model has no values yet, or none that are trained; the loss is no number, or does not depend on
            the model.
    """
    require_values(model)
    if not callable(loss):
        raise SpecError(f"loss is a function, as lambda: cross_entropy(model(x), y) is; got {came(loss)}")
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise SpecError(f"no parameter of {type(model).__name__} requires a gradient: the model is frozen")
    every = [(p, p.detach().clone()) for p in model.parameters()]  # a layer may write to those that are not trained
    try:
        with modes_kept(model), torch.random.fork_rng(gpus_of(model)), frozen_stats(model), uncompiled():
            if not (training and model.training):
                model.train(training)
            yield Surface(parameters, loss)
    finally:
        with torch.no_grad():
            for parameter, before in every:
                parameter.copy_(before)


def norm_of(values: dict[str, Tensor]) -> float:
    """The joint 2-norm, in float64."""
    return sum(float(v.double().square().sum()) for v in values.values()) ** 0.5


def difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, Tensor]:
    """a - b."""
    return {name: a[name] - b[name] for name in a}


def cosine(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The cosine of the angle between the two; NaN if one is 0."""
    product = sum(float((a[name].double() * b[name].double()).sum()) for name in a)
    norms = norm_of(a) * norm_of(b)
    return product / norms if norms else float("nan")
