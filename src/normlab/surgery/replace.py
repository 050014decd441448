"""Swaps one layer of a model for another."""

from __future__ import annotations

from torch import nn

from normlab.errors import SpecError, UnknownName
from normlab.layers.batch import BatchNorm, Formulation

_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, BatchNorm)


def replace(model: nn.Module, name: str, new: nn.Module) -> None:
    """Put `new` wherever `model` holds the submodule called `name`, in place and under every name it has.

    Raises:
        UnknownName: no such submodule.
        SpecError: the model itself, which its owner holds and nobody here can swap.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    if name not in modules:
        raise UnknownName("submodule", name, modules)
    old = modules[name]
    if old is model:
        raise SpecError(
            f"the model itself, {type(model).__name__}, cannot be swapped in place: use the new layer instead"
        )
    for path in [path for path, held in modules.items() if held is old]:
        parent, _, child = path.rpartition(".")
        modules[parent].register_module(child, new)


def reformulate(module: nn.Module, formulation: Formulation) -> BatchNorm:
    """A BatchNorm of another formulation that holds the very parameters and buffers of `module`.

    γ and β keep their values, and where β is 0 the output is the same too; α starts at 1. dtype, device, training
    flag, requires_grad and an optimizer's references are those of the tensors, which are taken over.

    Raises:
        SpecError: not exactly torch's BatchNorm1d, 2d, 3d or normlab's BatchNorm (a subclass may do more than
            normalize), one without a weight, or one with hooks, which would be lost.
    """
    if type(module) not in _PLAIN:
        known = ", ".join(cls.__name__ for cls in _PLAIN)
        raise SpecError(f"formulation {formulation!r} cannot stand in for {type(module).__name__}, only for {known}")
    assert isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, BatchNorm))
    if _has_hooks(module):
        raise SpecError(
            f"this {type(module).__name__} has hooks, which a change of formulation would lose: add them later"
        )
    weight = module.weight
    if weight is None:
        raise SpecError(
            f"formulation {formulation!r} needs a weight, and this {type(module).__name__} has affine=False"
        )
    new = BatchNorm(
        module.num_features,
        module.eps,
        module.momentum,
        track_running_stats=module.track_running_stats,
        bias=module.bias is not None,
        formulation=formulation,
    ).to(weight)
    new.weight, new.bias = weight, module.bias
    for name, buffer in module.named_buffers():
        setattr(new, name, buffer)
    if new.inner_weight is not None:
        new.inner_weight.requires_grad_(weight.requires_grad)
    return new.train(module.training)


def _has_hooks(module: nn.Module) -> bool:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, kind) for kind in kinds)
