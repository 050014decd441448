"""An optimizer around another one."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

_HOOKS = (
    "_optimizer_step_pre_hooks",
    "_optimizer_step_post_hooks",
    "_optimizer_state_dict_pre_hooks",
    "_optimizer_state_dict_post_hooks",
    "_optimizer_load_state_dict_pre_hooks",
    "_optimizer_load_state_dict_post_hooks",
)


class Wrapper(Optimizer):
    """Everything that torch asks of an optimizer is that of `base`: groups, state, defaults, hooks, checkpoints.

    The groups are shared as `base` has them now, since `load_state_dict` puts a new list in their place.
    """

    def __init__(self, base: Optimizer) -> None:
        self.base = base
        for name in _HOOKS:
            setattr(self, name, getattr(base, name))

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Those of `base`."""
        return self.base.param_groups

    @property
    def state(self) -> defaultdict[Tensor, Any]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """That of `base`."""
        return self.base.state

    @property
    def defaults(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Those of `base`."""
        return self.base.defaults

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of what `base` holds."""
        self.base.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """That of `base`."""
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Into `base`."""
        self.base.load_state_dict(state_dict)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """To `base`."""
        self.base.add_param_group(param_group)
