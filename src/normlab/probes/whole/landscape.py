"""How smooth the loss is along its gradient: Santurkar's three curves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from normlab.errors import SpecError, came, require
from normlab.probes.whole.calls import as_number
from normlab.probes.whole.surface import Loss, cosine, difference, norm_of, surface

LR = 0.1
SHARES = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)


@dataclass(frozen=True)
class Landscape:
    """The loss L and its gradient g at w, and at w_k = w - η_k g.

    Args:
        step_sizes: η_k, as learning rates.
        loss: L(w), losses: L(w_k); in units of the loss.
        gradient_norm: |g|.
        gradient_differences: |∇L(w_k) - g|, a difference, where a well-known reproduction has the norm of a sum.
        cosines: of the angles between ∇L(w_k) and g.
        betas: |∇L(w_k) - g| / |w_k - w|.

    Source: Santurkar et al., arXiv:1805.11604, sec. 3.1.
    """

    step_sizes: tuple[float, ...]
    loss: float
    losses: tuple[float, ...]
    gradient_norm: float
    gradient_differences: tuple[float, ...]
    cosines: tuple[float, ...]
    betas: tuple[float, ...]

    @property
    def loss_variation(self) -> tuple[float, float]:
        """Least and largest loss along the gradient."""
        return min(self.losses), max(self.losses)

    @property
    def predictiveness(self) -> tuple[float, float]:
        """Least and largest change of the gradient; the smaller, the farther it predicts."""
        return min(self.gradient_differences), max(self.gradient_differences)

    @property
    def effective_beta(self) -> float:
        """The largest change of the gradient by distance: the effective β-smoothness."""
        return max(self.betas)

    @property
    def lipschitz(self) -> float:
        """The largest |L(w_k) - L(w)| / |w_k - w|; that of a network with a norm by that of one without is a ratio."""
        pairs = zip(self.step_sizes, self.losses, strict=True)
        return max(abs(at - self.loss) / (abs(eta) * self.gradient_norm) for eta, at in pairs)


def landscape(
    model: nn.Module,
    loss: Loss,
    *,
    step_sizes: Sequence[float] = tuple(LR * share for share in SHARES),
    training: bool = True,
) -> Landscape:
    """Walk along the gradient, on one batch; each step size costs a forward and a backward pass.

    Args:
        loss: computes the loss on a fixed batch: `lambda: cross_entropy(model(x), y)`.
        step_sizes: η_k; by default half to four times a learning rate of 0.1. The paper's ranges are not known.
        training: norms use the batch, and their running statistics stay; False for eval mode.

    Raises:
        SpecError: see `surface`; a step of 0; a gradient of 0, along which nothing changes.
    """
    require(step_sizes, Iterable, "step_sizes is a list of numbers")
    sizes = tuple(map(as_number, step_sizes))
    if not sizes or not all(0 < abs(eta) < float("inf") for eta in sizes):
        raise SpecError(f"step_sizes={came(step_sizes)} should be a list of one number or more, none of them 0")
    losses: list[float] = []
    differences: list[float] = []
    cosines: list[float] = []
    with surface(model, loss, training=training) as around:
        start, gradient = around.gradient()
        length = norm_of(gradient)
        if length == 0:
            raise SpecError("the gradient of the loss is 0, so there is no direction to walk in")
        for eta in sizes:
            around.move(gradient, -eta)
            at, there = around.gradient()
            losses.append(at)
            differences.append(norm_of(difference(there, gradient)))
            cosines.append(cosine(there, gradient))
    betas = tuple(d / (abs(eta) * length) for d, eta in zip(differences, sizes, strict=True))
    return Landscape(sizes, start, tuple(losses), length, tuple(differences), tuple(cosines), betas)
