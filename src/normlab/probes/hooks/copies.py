"""Keeps hooks out of copies of the modules that they are on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from normlab.probes.hooks.seen import Hook

_REDUCE = "__reduce_ex__"
_HOOKS = "_forward_hooks", "_forward_pre_hooks"
_FLAGS = {"_forward_hooks": ("_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
          "_forward_pre_hooks": ("_forward_pre_hooks_with_kwargs",)}  # fmt: skip


def keep_out_of_copies(module: nn.Module) -> Callable[[], None]:
    """From now on `copy.deepcopy` and `pickle` leave out the hooks of probes.

    Both ask the object itself how it is taken apart, so the answer stands on the module while it has such hooks. Of
    classes that say so themselves, as `torch.fx.GraphModule`, copies have a `Hook` that does nothing.

    Returns:
        What ends it, once no hook of a probe is left.
    """
    cls = type(module)
    own = cls.__reduce_ex__ is not object.__reduce_ex__ or cls.__reduce__ is not object.__reduce__
    if not own and not hasattr(cls, "__deepcopy__"):
        module.__dict__[_REDUCE] = partial(_taken_apart, module)
    return partial(_end, module)


def _end(module: nn.Module) -> None:
    if not any(_of_probes(module.__dict__[name]) for name in _HOOKS):
        module.__dict__.pop(_REDUCE, None)


def _taken_apart(module: nn.Module, protocol: Any) -> str | tuple[Any, ...]:
    parts = object.__reduce_ex__(module, protocol)
    if isinstance(parts, str) or len(parts) < 3 or not isinstance(parts[2], dict):
        return parts
    whole: dict[str, Any] = parts[2]
    state = {name: value for name, value in whole.items() if name != _REDUCE}
    for name in _HOOKS:
        ours = _of_probes(state.get(name, {}))
        for one in (name, *_FLAGS[name]):
            held = state.get(one)
            if ours and held is not None:
                state[one] = type(held)((key, value) for key, value in held.items() if key not in ours)
    return *parts[:2], state, *parts[3:]


def _of_probes(hooks: Mapping[int, Any]) -> set[int]:
    return {key for key, hook in hooks.items() if isinstance(hook, Hook)}
