"""Freezes the normalization layers of a model so that calls of `train` do not thaw them."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from normlab.errors import SpecError, require
from normlab.surgery.conversion.carry import named_tensors
from normlab.surgery.sites import norm_sites
from normlab.surgery.statistics.borrow import require_shapes
from normlab.surgery.statistics.kept import kept

_THAWED = "_trained_before_freeze"
"""Attribute of a frozen layer: names of the parameters that were trained."""


def freeze(model: nn.Module, *, stats: bool = True, affine: bool = True) -> list[str]:
    """Stop running statistics, and the training of norms' parameters, until `unfreeze`.

    Frozen statistics are those that the layer normalizes by, as in eval mode, whatever `model.train()` says; what such
    a layer holds besides, such as the dropout in a norm of timm, goes on following it. Pickling, deepcopy and
    torch.compile keep all this, the state dict shows nothing of it. In place; may be called twice.

    Args:
        stats: of all layers that keep running ones. affine: weight, bias and whatever else a norm learns; their
            gradients are dropped, since an optimizer would still use them.

    Returns:
        The names of the layers that are frozen now.

    Raises:
        SpecError: there is nothing to freeze.
    """
    if not (stats or affine):
        raise SpecError("freeze(stats=False, affine=False) freezes nothing")
    require(model, nn.Module, "freeze takes a torch module")
    if affine:
        _check_not_planned(model)
    require_shapes(model)
    frozen: list[str] = []
    for site in norm_sites(model):
        keeps = stats and kept(site.module) is not None
        if keeps:
            _stop(site.module)
        trained = _stop_training(site.module) if affine else ()
        if keeps or trained or is_frozen(site.module) or site.frozen:
            frozen.append(site.name)
    if not frozen:
        wanted = " or ".join(["running statistics"] * stats + ["trained parameters"] * affine)
        raise SpecError(f"there is nothing to freeze: no normalization layer has {wanted}")
    return frozen


def _check_not_planned(model: nn.Module) -> None:
    if any(isinstance(module, DistributedDataParallel) for module in model.modules()):
        raise SpecError(
            "DistributedDataParallel has planned its communication for the parameters that are trained now: freeze "
            "model.module and wrap it again; freeze(model, affine=False) stops the statistics alone"
        )


def unfreeze(model: nn.Module) -> list[str]:
    """Undo `freeze`: train what was trained before, and follow the training mode of the model again.

    Returns:
        The names of the layers that were frozen.

    Raises:
        SpecError: there are none.
    """
    if any(_THAWED in vars(site.module) for site in norm_sites(model)):
        _check_not_planned(model)
    thawed: list[str] = []
    for site in norm_sites(model):
        module, variables = site.module, vars(site.module)
        if not (is_frozen(module) or _THAWED in variables):
            continue
        if is_frozen(module):
            del variables["train"]
            module.training = model.training
        parameters = named_tensors(module)
        for name in variables.pop(_THAWED, ()):
            parameters[name].requires_grad_(True)
        thawed.append(site.name)
    if not thawed:
        raise SpecError("there is nothing to unfreeze: no normalization layer was frozen by freeze(model)")
    return thawed


def is_frozen(module: nn.Module) -> bool:
    """Were the running statistics of this layer frozen by `freeze`?"""
    own = vars(module).get("train")
    return isinstance(own, partial) and own.func is _train_parts


def _stop(module: nn.Module) -> None:
    module.training = False
    vars(module)["train"] = partial(_train_parts, module)


def _train_parts(module: nn.Module, mode: bool = True) -> nn.Module:
    """`train` of a frozen layer: for its parts alone."""
    for child in module.children():
        child.train(mode)
    module.training = False
    return module


def _stop_training(module: nn.Module) -> tuple[str, ...]:
    names = [name for name, value in named_tensors(module).items() if isinstance(value, nn.Parameter)]
    trained = tuple(name for name in names if module.get_parameter(name).requires_grad)
    for name in trained:
        parameter = module.get_parameter(name)
        parameter.requires_grad_(False)
        parameter.grad = None
    before: tuple[str, ...] = vars(module).get(_THAWED, ())
    if trained:
        vars(module)[_THAWED] = (*before, *trained)
    return trained
