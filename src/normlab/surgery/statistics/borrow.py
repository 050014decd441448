"""Runs a model or its norms in another way than they would by themselves, and puts everything back."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from normlab.errors import SpecError
from normlab.layers import BatchLayer, BatchRenorm, NoisyBatchNorm, SparseSwitchNorm, StochasticWhiteningBatchNorm
from normlab.surgery.frozen import frozen_stats
from normlab.surgery.sites import Site

_AUTHORS = ("torch", "timm", "torchvision", "detectron2", "maskrcnn_benchmark")

Forward = Callable[..., Any]
Around = Callable[..., Any]


def _no_noise(x: Tensor) -> tuple[Tensor, Tensor]:
    ones = x.new_ones([1] * x.dim())
    return ones, torch.zeros_like(ones)


def _stay(_: Tensor, fixed: Tensor) -> Tensor:
    return fixed


_QUIET: dict[type[nn.Module], dict[str, Any]] = {
    BatchRenorm: {"rmax": 1.0, "dmax": 0.0, "_correction": None},
    NoisyBatchNorm: {"noise": _no_noise},
    SparseSwitchNorm: {"_freeze": _stay},
    StochasticWhiteningBatchNorm: {"alpha": 0.0},
}
"""Attributes with which a layer in training mode normalizes by its batch and does nothing else: no noise, no steps, no
corrections towards the running statistics."""


@dataclass(frozen=True)
class _Through:
    """A layer's forward pass, in the hands of `around`."""

    around: Around
    site: Site
    forward: Forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.around(self.site, self.forward, *args, **kwargs)


@contextmanager
def through(sites: Iterable[Site], around: Around) -> Generator[None]:
    """While it lasts, a call of one of these layers is `around(site, forward, *args, **kwargs)`; the innermost counts.

    Hooks stay outside; compiled models run uncompiled, so that this is never missed.
    """
    held = [(vars(site.module), site) for site in sites]
    before = [variables.get("forward") for variables, _ in held]
    try:
        for variables, site in held:
            forward = site.module.forward
            forward = forward.forward if isinstance(forward, _Through) else forward
            variables["forward"] = _Through(around, site, forward)
        with uncompiled():
            yield
    finally:
        for (variables, _), own in zip(held, before, strict=True):
            variables.pop("forward", None)
            if own is not None:
                variables["forward"] = own


def uncompiled() -> AbstractContextManager[object]:
    """While it lasts, what is compiled runs eagerly: compiled code calls no hooks, and knows no borrowed attribute.

    Without torch's compiler, whose import takes two seconds, nothing has been compiled.
    """
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


@contextmanager
def modes_kept(model: nn.Module) -> Generator[None]:
    """Afterwards each module is in training or eval mode as before."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag


def gpus_of(model: nn.Module) -> list[int]:
    """Those that hold its parameters, as `torch.random.fork_rng` wants them."""
    return sorted({parameter.device.index or 0 for parameter in model.parameters() if parameter.is_cuda})


@contextmanager
def changed(module: nn.Module, attributes: Mapping[str, Any]) -> Generator[None]:
    """While it lasts, the module has these attributes; it may have had them or not."""
    variables = vars(module)
    before = {name: variables[name] for name in attributes if name in variables}
    try:
        variables.update(attributes)
        yield
    finally:
        for name in attributes:
            variables.pop(name, None)
        variables.update(before)


@contextmanager
def by_batch(site: Site, share: float | None = None, **more: Any) -> Generator[None]:
    """While it lasts, the layer normalizes by its batch as in training, and what it remembers of it is forgotten.

    Args:
        share: weight of the batch in the running statistics of the layer, which are clones.
        more: further attributes.

    Raises:
        SpecError: a layer that has no attribute `momentum`, if a share is given.
    """
    module = site.module
    quiet = next((found for cls, found in _QUIET.items() if isinstance(module, cls)), {})
    attributes = {"training": True} | quiet | more
    if share is not None:
        attributes |= _momentum(site, share)
    with frozen_stats(module), changed(module, attributes):
        yield


def _momentum(site: Site, share: float) -> dict[str, Any]:
    module = site.module
    if isinstance(module, BatchLayer):
        # averages as plain ones, whatever the layer makes of them
        kept_share = 1 - share if module.momentum_convention == "keep" else share
        return {"momentum": kept_share, "debias": False, "moving_average": True}
    if not hasattr(module, "momentum"):
        raise SpecError(
            f"{label(site)} has running statistics and no attribute `momentum`, the weight of the newest batch: how it "
            "averages them cannot be seen"
        )
    return {"momentum": share}


def label(site: Site) -> str:
    """Name and type, for messages."""
    return f"{site.name or 'the model'} ({type(site.module).__name__})"


def author_of_forward(module: nn.Module) -> str:
    """The package that the module's forward pass is from."""
    author = next(cls for cls in type(module).__mro__ if "forward" in vars(cls))
    return author.__module__.partition(".")[0]


def trusted(module: nn.Module) -> bool:
    """Is it a layer whose conventions are known: normlab's, or one of other libraries that does its own forward?"""
    return isinstance(module, BatchLayer) or author_of_forward(module) in _AUTHORS


def input_of(site: Site, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The first tensor that the layer is called with."""
    found = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
    if found is None:
        raise SpecError(f"{label(site)} was called without a tensor, whose statistics could be taken")
    return found


def require_shapes(model: nn.Module) -> None:
    """Refuse a model with lazy layers that have seen no input.

    Raises:
        SpecError: names the first of them.
    """
    lazy = [name for name, value in (*model.named_parameters(), *model.named_buffers()) if is_lazy(value)]
    if lazy:
        raise SpecError(f"{lazy[0]!r} has no shape yet, being lazy: run one forward pass first")
