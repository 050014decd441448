"""Runs a model once on a sample, leaving no trace."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from normlab.errors import SpecError
from normlab.layers import GroupNorm, InstanceNorm, LayerNorm
from normlab.surgery.frozen import frozen_stats
from normlab.surgery.statistics.borrow import gpus_of, modes_kept

Sample = Tensor | tuple[Any, ...] | Mapping[str, Any]


def outputs(model: nn.Module, sample: Sample, *, training: bool) -> list[Tensor]:
    """All floating-point tensors in what the model gives for the sample.

    Buffers, training flags, random generators, gradients and the sample itself are as before afterwards. A model in
    training mode keeps in eval mode what is in eval mode there.

    Raises:
        whatever the model raises.
    """
    args, kwargs = _arguments(pytree.tree_map_only(Tensor, Tensor.clone, sample))
    with modes_kept(model):
        if not (training and model.training):
            model.train(training)
        with torch.no_grad(), torch.random.fork_rng(gpus_of(model)), frozen_stats(model):
            found = pytree.tree_leaves(model(*args, **kwargs))
        return [value.detach().clone() for value in found if isinstance(value, Tensor) and value.is_floating_point()]


@contextmanager
def first_run() -> Generator[None]:
    """The model runs on the sample as it came: what it raises is due to the sample.

    Raises:
        SpecError: with what the model raised.
    """
    try:
        yield
    except Exception as error:
        raise SpecError(f"the model does not take the sample, before anything was changed: {error}") from error


def _arguments(sample: Sample) -> tuple[Sequence[Any], Mapping[str, Any]]:
    if isinstance(sample, Mapping):
        return (), sample
    return (sample, {}) if isinstance(sample, tuple) else ((sample,), {})


def materialize(model: nn.Module, sample: Sample, undo: ExitStack) -> None:
    """Give lazy layers their shapes, by one forward pass in eval mode; nothing else changes.

    Args:
        undo: gets what makes them lazy again.
    """
    for module in model.modules():
        if isinstance(module, LazyModuleMixin):
            undo.callback(_make_lazy, module, type(module), _contents(module))
    args, kwargs = _arguments(pytree.tree_map_only(Tensor, Tensor.clone, sample))
    with modes_kept(model), torch.no_grad():
        model.eval()(*args, **kwargs)


Contents = tuple[list[tuple[str, Any, Any]], list[tuple[Tensor, type, Tensor]]]


def _contents(module: nn.Module) -> Contents:
    held = [(name, value, dict(value) if isinstance(value, dict) else None) for name, value in vars(module).items()]
    tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return held, [(tensor, type(tensor), tensor.data) for tensor in tensors if is_lazy(tensor)]


def _make_lazy(module: nn.Module, cls: type, contents: Contents) -> None:
    held, tensors = contents
    module.__class__ = cls
    vars(module).clear()
    for name, value, inside in held:
        if inside is not None:  # the same dict: handles of hooks refer to it
            value.clear()
            value.update(inside)
        vars(module)[name] = value
    for tensor, kind, data in tensors:
        tensor.data = data
        tensor.__class__ = kind


def largest_difference(before: list[Tensor], after: list[Tensor]) -> float | None:
    """Over all values of outputs of the same shapes; None if the shapes differ or there are no outputs."""
    if not before or [value.shape for value in before] != [value.shape for value in after]:
        return None
    pairs = zip(before, after, strict=True)
    return max((float((a.double() - b.double()).abs().max()) for a, b in pairs if a.numel()), default=0.0)


def check_training(model: nn.Module, sample: Sample, layers: Mapping[str, nn.Module]) -> tuple[str, ...]:
    """Run the model in training mode, and refuse what one of these layers cannot do with what reaches it.

    Returns:
        The names of the layers that nothing has reached.

    Raises:
        SpecError: a layer raises, or normalizes groups of so few values that nothing of them is left.
    """
    at_work: list[str] = []  # layers that have been entered and not left, with what they got
    reached: set[str] = set()
    with ExitStack() as hooks:
        for name, layer in layers.items():
            hooks.callback(layer.register_forward_pre_hook(_enter(name, at_work, reached), prepend=True).remove)
            hooks.callback(layer.register_forward_hook(_leave(at_work)).remove)
        try:
            outputs(model, sample, training=True)
        except _Degenerate as error:
            raise SpecError(str(error)) from None
        except Exception as error:
            where = at_work[-1] if at_work else "the converted model does not take the sample in training mode"
            raise SpecError(f"{where}: {error}") from error
    return tuple(name for name in layers if name not in reached)


class _Degenerate(Exception):
    """A group of so few values that normalizing them loses them."""


def _enter(name: str, at_work: list[str], reached: set[str]) -> Callable[..., None]:
    def pre_hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        reached.add(name)
        x = args[0] if args else torch.empty(0)
        at_work.append(f"{name or 'the model'}, {type(module).__name__} on {list(x.shape)}")
        groups = _groups(module)
        values = x[0].numel() // groups if groups and len(x) else 3
        if values < 3:
            left = (
                "one value each, of which nothing is left" if values < 2 else "two values each, of which a sign is left"
            )
            raise _Degenerate(f"{at_work[-1]}: groups of {left}. Use fewer groups, or leave this layer out by `where`")

    return pre_hook


def _leave(at_work: list[str]) -> Callable[..., None]:
    def hook(*_: Any) -> None:
        at_work.pop()

    return hook


def _groups(module: nn.Module) -> int | None:
    """Into how many groups each example is divided; None for norms that are not of each example alone."""
    if isinstance(module, (nn.GroupNorm, GroupNorm)):
        return module.num_groups
    if isinstance(module, LayerNorm):
        return 1
    if isinstance(module, (InstanceNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)):
        return module.num_features
    return None
