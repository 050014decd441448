"""What a layer's training rules ask for between the backward pass and the optimizer's step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from normlab.layers.rules import training_rules


class GradientRules:
    """A pre-hook of an optimizer's step.

    Parameters that have their final value lose their gradient, so that momentum moves them no more; then the gradients
    of each group with a `max_norm` are scaled down to it together. With `GradScaler` it is the unscaled norm.

    Args:
        fixed: layer, name of a parameter, and name of the buffer that is not 0 once it has its final value.
    """

    def __init__(self, fixed: list[tuple[nn.Module, str, str]]) -> None:
        self.fixed = fixed

    def __call__(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> Any:
        """Act now, or inside the closure that computes the gradients, where the step is given one."""
        closure: Callable[[], Any] | None = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            self.apply(optimizer)
            return None

        def ruled() -> Any:
            loss = closure()
            self.apply(optimizer)
            return loss

        return (*args[:1], ruled, *args[2:]), {key: value for key, value in kwargs.items() if key != "closure"}

    @torch.no_grad()
    def apply(self, optimizer: torch.optim.Optimizer) -> None:
        """Drop and clip the gradients that are there."""
        flags = [layer.get_buffer(flag).flatten()[0] != 0 for layer, _, flag in self.fixed]
        known = (
            torch.stack([flag.to(flags[0].device) for flag in flags]).tolist() if flags else []
        )  # one wait for a GPU
        for (layer, name, _), done in zip(self.fixed, known, strict=True):
            if done:
                layer.get_parameter(name).grad = None
        scale = getattr(optimizer, "grad_scale", None)  # fused optimizers unscale inside their step
        for group in optimizer.param_groups:
            if group.get("max_norm") is not None:
                largest = group["max_norm"] * (1.0 if scale is None else float(scale))
                torch.nn.utils.clip_grad_norm_(group["params"], largest)


def attach_rules(optimizer: torch.optim.Optimizer, model: nn.Module) -> RemovableHandle | None:
    """Let the optimizer follow the training rules of the model's layers at each step, if there are any.

    Sparse Switchable Norm's logits: gradient of all of them together clipped to 2-norm 1, and none for those that are
    one-hot. Their learning rate and decay are those of their group, see `Recipe.param_groups`. Of SAM it is the second
    gradient. It holds for this optimizer, or the one inside `normlab.optim.SAM`, but not for copies of it.

    Returns:
        A handle whose `remove()` ends it; None for a model without such layers, whose training it leaves alone.

    Source: Shao et al., arXiv:1903.03793, authors' code.
    """
    rules = list(training_rules(model))
    fixed = [(layer, name, rule.fixed_by) for layer, name, rule in rules if rule.fixed_by is not None]
    return optimizer.register_step_pre_hook(GradientRules(fixed)) if rules else None


def follows_rules(optimizer: object) -> bool:
    """Has `attach_rules` been called on it, or on the optimizer inside it?"""
    inner = getattr(optimizer, "base_optimizer", None) or getattr(optimizer, "optimizer", None)
    hooks = getattr(optimizer, "_optimizer_step_pre_hooks", {}).values()
    return any(isinstance(hook, GradientRules) for hook in hooks) or (inner is not None and follows_rules(inner))
