"""Sharpness-aware minimization: SAM, ASAM, SAM-ON and ASAM-ON around any optimizer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from normlab.errors import SpecError, came
from normlab.optim.arguments import UpdateStats, check_adaptive, check_names, check_numbers, check_wrapped
from normlab.optim.inplace import Copies, add_, copy, put_back_, unscale_
from normlab.optim.perturbation import Adaptive, P, perturbation
from normlab.optim.scope import Scope, Target, Targets
from normlab.optim.wrapper import Wrapper
from normlab.surgery import frozen_stats

_ARGUMENTS = ("base", "model", "rho", "scope", "adaptive", "p", "eta", "normalize_bias", "update_stats")


class SAM(Wrapper):
    """Step with the gradient of a neighbour of higher loss, so that flat minima are found.

        g = ∇L(w),   w' = w + ε(g),   g' = ∇L(w'),   back to w, where the optimizer steps with g'

    ε is in `perturbation`; weight decay and momentum act at w and are no part of g. scope="norm" is SAM-ON: only γ and
    β of the normalization layers are perturbed, found by type; the step still changes everything. Everything that
    torch asks of an optimizer (groups, state, hooks, zero_grad, state_dict) is that of the wrapped one, so that
    schedulers take either of the two, and checkpoints of plain training can be loaded; `rho` and the other arguments
    are not stored.

    With a closure, as for LBFGS; it is called twice and may do what one pass does: several micro-batches, clipping.

        def closure():
            sam.zero_grad()
            loss = loss_of(model(x), y)
            loss.backward()
            return loss

        loss = sam.step(closure)  # at w

    With two passes of your own. `first_step` clears the gradients after it has used them; a second pass that may fail
    and be survived belongs in `try`, with `sam.restore()` where the exception is caught.

        sam.zero_grad()
        loss_of(model(x), y).backward()
        sam.first_step()
        loss_of(model(x), y).backward()
        sam.second_step()

    With a GradScaler: two passes. ε does not depend on the scale, so the first gradients are not unscaled; a step that
    the scaler skips restores the weights all the same. `scaler.unscale_(sam)`, to clip, goes before `scaler.step`.

        scaler.scale(loss_of(model(x), y)).backward()
        sam.first_step()
        scaler.scale(loss_of(model(x), y)).backward()
        scaler.step(sam)  # instead of second_step()
        scaler.update()

    With DistributedDataParallel, either protocol: gradients are averaged in both passes, and the processes do what one
    would with the whole batch. Under `no_sync` in the first pass (`nullcontext() if sam.perturbed else
    ddp.no_sync()` in a closure) each process perturbs by the gradient of its own part, which the authors do (their
    m-sharpness), saves a reduction, and gives other numbers; the weights are the same in all processes either way.

    Running statistics and counters move in the first pass only, whatever normalizes, if they are buffers
    (`frozen_stats`). Gradients that are not finite make w' NaN, so those of the second pass are neither, which a
    GradScaler sees; w is unharmed.

    Args:
        optimizer: any of torch's that needs no closure of its own. What it does not hold is not perturbed.
        model: the module that its parameters belong to; compiled, DDP or `fully_shard`ed is as good.
        rho: ρ, the size of the perturbation, 0 or more: for SAM 0.05 to 0.5, for ASAM 0.5 to 10.
        scope: "all" parameters; "norm", γ and β of normalization layers; "not_norm", all but those. Other learnables
            of a normalizer, such as the logits of Switchable Norm, are "not_norm".
        adaptive: T follows the size of the weights (ASAM), by entry or by tensor.
        p: the norm in which the perturbation is bounded; "inf" needs `adaptive`.
        eta: η of ASAM, 0.01 unless given.
        normalize_bias: T is 1 for what is no weight, by its role in the module that owns it (biases, β, class
            tokens); True: T follows the size of those too.
        update_stats: "twice" lets running statistics move in both passes, as in the authors' codes.

    Raises:
        SpecError: an argument that is none of these; a scope without parameters; an optimizer whose parameters are
            not the model's, also at a later step, when surgery has replaced some of them.

    Source: Foret et al., arXiv:2010.01412; Kwon et al., arXiv:2102.11600; Mueller et al., arXiv:2306.04226.
    """

    scope: Scope
    adaptive: Adaptive | None
    p: P
    update_stats: UpdateStats

    # GradScaler then calls `step` also when it found inf, and leaves unscaling to it: the weights have to go back
    _step_supports_amp_scaling = True

    def __init__(
        self,
        optimizer: Optimizer,
        model: nn.Module,
        rho: float = 0.05,
        *,
        scope: Scope = "all",
        adaptive: Adaptive | None = None,
        p: P = 2,
        eta: float | None = None,
        normalize_bias: bool = False,
        update_stats: UpdateStats = "once",
    ) -> None:
        check_wrapped(optimizer, model)
        check_names(scope=scope, adaptive=adaptive, p=p, update_stats=update_stats)
        check_adaptive(adaptive=adaptive, p=p, eta=eta, normalize_bias=normalize_bias)
        check_numbers(rho=rho, eta=0.01 if eta is None else eta)
        super().__init__(optimizer)
        self.model, self.scope, self.update_stats = model, scope, update_stats
        self.rho, self.adaptive, self.p = rho, adaptive, p
        self.eta, self.normalize_bias = 0.01 if eta is None else eta, normalize_bias
        self._prepare()

    def _prepare(self) -> None:
        # not assigned again: Lightning runs our methods on an object that shares our attributes, but keeps its own
        self._targets = Targets()
        self._copies: Copies = []
        self._frozen = ExitStack()
        self._targets(self.model, self.base, self.scope)

    def __getstate__(self) -> dict[str, Any]:
        if self._copies:
            raise SpecError("SAM cannot be copied or pickled between its two passes: call second_step() or restore()")
        return {key: value for key, value in self.__dict__.items() if key in _ARGUMENTS}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__init__(state["base"])
        self.__dict__.update(state)
        self._prepare()

    @property
    def perturbed(self) -> bool:
        """Between `first_step` and `second_step`, where the model is at w'."""
        return bool(self._copies)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Both passes with the closure, and the step; or what is left of them after `first_step`.

        Returns:
            What the closure gave at its first call here, the loss at w; None without a closure, which is allowed
            after `first_step` and then means `second_step`.

        Raises:
            SpecError: no closure and no `first_step` before; a closure given to a GradScaler's step.
        """
        if closure is not None and not callable(closure):
            raise SpecError(f"step() of SAM takes a closure, a function without arguments; got {came(closure)}")
        if closure is None and not self.perturbed:
            raise SpecError(
                "step() of SAM needs two passes: give it a closure that clears the gradients, runs the model, calls "
                "backward and returns the loss; or run one pass, first_step(), another, second_step()"
            )
        if closure is not None and hasattr(self, "found_inf"):
            raise SpecError("a GradScaler takes no closure: run both passes yourself, then scaler.step(sam)")
        losses: list[Any] = []
        try:
            with torch.enable_grad():
                if closure is not None and not self.perturbed:
                    losses.append(closure())
                    self.first_step()
                if closure is not None:
                    losses.append(closure())
        except BaseException:
            self.restore()
            raise
        self.second_step()
        return losses[0] if losses else None

    @torch.no_grad()
    def first_step(self, zero_grad: bool = True) -> None:
        """Perturb the parameters by the gradients of the first pass, keep copies, and freeze running statistics.

        Args:
            zero_grad: clear the gradients, as those of the second pass are added to them; else they stay as they were.

        Raises:
            SpecError: no gradient in scope; the optimizer holds parameters that are not the model's; called twice, when
                the weights are restored first.
        """
        if self.perturbed:
            self.restore()
            raise SpecError(
                "first_step() came twice without second_step(), so the gradients are those of perturbed weights. The "
                "weights are restored: repeat this batch; where a second pass may fail, call restore() then"
            )
        live = [
            target for target in self._targets(self.model, self.base, self.scope) if target.parameter.grad is not None
        ]
        if not live:
            raise SpecError(
                f"no parameter in scope={self.scope!r} has a gradient: run backward before first_step(); those "
                "that are frozen (requires_grad=False) get none"
            )
        parameters = [target.parameter for target in live]
        epsilons = self._perturbation(live)
        copies = copy(parameters)
        if self.update_stats == "once":
            self._frozen.enter_context(frozen_stats(self.model))
        self._copies.extend(copies)
        add_(parameters, *epsilons)
        if zero_grad:
            self.zero_grad()

    def _perturbation(self, live: list[Target]) -> tuple[list[Tensor], float | Tensor]:
        gradients = [p.grad for p, _ in live if p.grad is not None]
        if any(gradient.is_sparse for gradient in gradients):
            raise SpecError("SAM needs dense gradients: build the embedding with sparse=False")
        # weights come first
        adapted = len(live) if self.normalize_bias else sum(is_weight for _, is_weight in live)
        weights = [p for p, _ in live[:adapted]]
        return perturbation(gradients, weights, rho=self.rho, adaptive=self.adaptive, p=self.p, eta=self.eta)

    @torch.no_grad()
    def second_step(self, zero_grad: bool = False) -> None:
        """Restore the parameters, and step with the gradients of the second pass.

        Args:
            zero_grad: clear the gradients after it.

        Raises:
            SpecError: without `first_step`.
        """
        if not self.perturbed:
            raise SpecError("second_step() needs first_step() before it, and a second pass between the two")
        self.restore()
        # what a GradScaler leaves to us for the time of its step
        if not getattr(self, "found_inf", False):
            scale = getattr(self, "grad_scale", None)
            if scale is not None:
                unscale_([p.grad for group in self.param_groups for p in group["params"] if p.grad is not None], scale)
            self.base.step()
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def restore(self) -> None:
        """Back to w, bit for bit, and running statistics move again; nothing happens where nothing is perturbed."""
        try:
            put_back_(self._copies)
        finally:
            self._copies.clear()
            self._frozen.close()
