"""What stays around a layer when another takes its place: hooks, what follows the norm inside it, dimension order."""

from __future__ import annotations

import weakref
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from normlab.errors import SpecError
from normlab.layers import Layer
from normlab.surgery.known import Features
from normlab.surgery.sites import norm_type

_HOOKS = (
    ("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"),
    ("_backward_hooks",),
    ("_backward_pre_hooks",),
    ("_state_dict_hooks",),
    ("_state_dict_pre_hooks",),
    ("_load_state_dict_pre_hooks",),
    ("_load_state_dict_post_hooks",),
)
"""torch's dicts of hooks; those of one line are about the same hooks."""


def tail(module: nn.Module) -> dict[str, nn.Module]:
    """The children that a norm, or the hook that `convert` gave it, applies to what it has normalized, in order."""
    known = norm_type(module)
    names: tuple[str, ...] = getattr(module, "_tail", () if known is None else known.tail)
    found = {name: getattr(module, name, None) for name in names}
    return {name: child for name, child in found.items() if isinstance(child, nn.Module)}


def features(module: nn.Module) -> Features | None:
    """The dimension of a layer's input that its weight and bias belong to; None for what is no known norm."""
    known = norm_type(module)
    return getattr(module, "_features", None if known is None else known.features)


def move_features(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Forward pre-hook: the features go where the layer wants them, which is a view: [N, ..., C] as [N, C, ...]."""
    outside = getattr(module, "_features", None)
    if outside is None:
        return None
    if not args:
        raise SpecError(f"{type(module).__name__} takes its input by position: convert has put it in another's place")
    return (args[0].movedim(-1, 1) if outside == "last" else args[0].movedim(1, -1)), *args[1:]


def finish(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """Forward hook: the features go back to where they were, and what followed the norm of before is applied."""
    outside = getattr(module, "_features", None)
    if outside is not None:
        here, there = (1, -1) if outside == "last" else (-1, 1)
        output = output.movedim(here, there)
        if args[0].movedim(here, there).is_contiguous():  # what comes next may count on it
            output = output.contiguous()
    for name in getattr(module, "_tail", ()):
        output = getattr(module, name)(output)
    return output


def adapt(old: nn.Module, new: nn.Module, *, activation: bool) -> tuple[str, ...]:
    """Make `new` end and read its input as `old` does; changes `new` only, and works once `take_hooks` was called.

    Args:
        activation: also one that `old` has as an argument.

    Returns:
        The names of the children that follow the norm, as before.
    """
    outside, inside, own = features(old), features(new), norm_type(new)
    after = tail(old) | (_own_activation(old, new) if activation else {})
    for name, child in after.items():
        new.add_module(name, child)
    if after and not (own is not None and set(after) <= set(own.tail)):
        new._tail = tuple(after)  # pyright: ignore[reportArgumentType]: a plain attribute, as `_features`
    if inside is not None and inside != outside:
        new._features = outside  # pyright: ignore[reportArgumentType]
    return tuple(name for name, child in after.items() if not isinstance(child, nn.Identity))


def _own_activation(old: nn.Module, new: nn.Module) -> dict[str, nn.Module]:
    """As a module, what `old` has as an argument and `new` cannot be given."""
    if isinstance(old, Layer) and old.activation == "relu" and not (isinstance(new, Layer) and new.activation):
        return {"act": nn.ReLU()}
    name = getattr(old, "act_name", None)  # timm's InplaceAbn
    if name == "leaky_relu":
        return {"act": nn.LeakyReLU(float(old.act_param))}  # pyright: ignore[reportArgumentType]
    return {"act": nn.ELU(float(old.act_param))} if name == "elu" else {}  # pyright: ignore[reportArgumentType]


def take_hooks(old: nn.Module, new: nn.Module, undo: ExitStack) -> None:
    """Give `new` the very hooks of `old`, so that handles go on working, and those that `adapt` counts on."""
    for names in _HOOKS:
        if getattr(old, names[0]):
            vars(new).update({name: vars(old)[name] for name in names})
    vars(new)["_is_full_backward_hook"] = vars(old)["_is_full_backward_hook"]
    for hook in vars(new)["_load_state_dict_pre_hooks"].values():
        if hook.with_module and hook.module() is old:
            hook.module = weakref.ref(new)
            undo.callback(setattr, hook, "module", weakref.ref(old))
    adapted = {"_tail", "_features"} & set(vars(new))
    if adapted and finish not in vars(new)["_forward_hooks"].values():
        undo.callback(new.register_forward_hook(finish, prepend=True).remove)
    if "_features" in adapted and move_features not in vars(new)["_forward_pre_hooks"].values():
        undo.callback(new.register_forward_pre_hook(move_features).remove)
