"""What a recipe does to a model before training, step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from normlab.errors import SpecError
from normlab.layers.batch import Formulation
from normlab.recipes.input_norm import InputNormalized
from normlab.surgery import Site, affine_params, norm_sites, reformulate, replace

ZeroScale = Literal["keep", "overwrite"]

FRESH_STATS = {"running_mean": 0, "running_var": 1, "num_batches_tracked": 0}


@dataclass(frozen=True)
class ScalePlan:
    """What a recipe does to the scales of a model's batch-type layers, by name of the layer.

    Args:
        set: get the initial scale.
        kept: all zeros, by somebody's zero-initialised residual branches, and left at that.
        without: have no scale.
    """

    set: tuple[str, ...]
    kept: tuple[str, ...]
    without: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{len(self.set)} set"]
        parts += [f"{len(self.kept)} zero-initialised and kept"] if self.kept else []
        parts += [f"{len(self.without)} layers without one"] if self.without else []
        return "BatchNorm scales: " + ", ".join(parts)


def batch_sites(model: nn.Module) -> list[Site]:
    """The layers that recipes act on: those that normalize by batch moments."""
    return [site for site in norm_sites(model) if site.kind == "batch"]


def plan_scales(model: nn.Module, zero_scale: ZeroScale) -> ScalePlan:
    """Sort the batch-type layers by what becomes of their scales; changes nothing."""
    names: dict[str, list[str]] = {"set": [], "kept": [], "without": []}
    for site in batch_sites(model):
        weight = affine_params(site.module).weight
        if weight is None:
            names["without"].append(site.name)
        elif zero_scale == "keep" and not weight.detach().any():
            names["kept"].append(site.name)
        else:
            names["set"].append(site.name)
    return ScalePlan(**{key: tuple(value) for key, value in names.items()})


def check_model(model: nn.Module, *, force: bool) -> None:
    """Refuse a model that the recipe cannot act on, before anything is changed.

    Raises:
        SpecError: no module, prepared before, lazy or meta parameters, no batch-type layer with a scale, or trained
            weights without `force`.
    """
    if not isinstance(model, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance] - the caller may not be typed
        raise SpecError(f"prepare takes a torch module, got {model!r}")
    if isinstance(model, InputNormalized):
        raise SpecError("this model has its input normalized already: prepare model.unwrap()")
    lazy = [name for name, parameter in model.named_parameters() if is_lazy(parameter)]
    if lazy:
        raise SpecError(f"{lazy[0]} has no shape yet: run one forward pass through the lazy layers first")
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise SpecError("parts of the model are on the meta device: model.to_empty(device=...) gives them memory first")
    sites = batch_sites(model)
    if not any(affine_params(site.module).weight is not None for site in sites):
        why = f"none of its {len(sites)} BatchNorm layers has a scale" if sites else "it has no BatchNorm layer"
        raise SpecError(
            f"a recipe acts on BatchNorm scales, and {type(model).__name__} has nothing to act on: {why}. "
            "register_norm_type makes a type of yours known."
        )
    trained = [site.name or type(model).__name__ for site in sites if _has_moved(site.module)]
    if trained and not force:
        raise SpecError(
            f"{len(trained)} of {len(sites)} BatchNorm layers have running statistics of earlier training "
            f"({trained[0]}, ...): these look like pretrained weights, and a recipe for training from scratch would "
            "overwrite them. Build the model without them, or pass force=True."
        )


def _has_moved(module: nn.Module) -> bool:
    stats = dict(module.named_buffers(recurse=False))
    return any(bool((stats[name] != value).any()) for name, value in FRESH_STATS.items() if name in stats)


@torch.no_grad()
def set_scales(model: nn.Module, scale: float, zero_scale: ZeroScale) -> None:
    """Scales of batch-type layers to `scale`, shifts to 0, running statistics to those of a new layer."""
    chosen = set(plan_scales(model, zero_scale).set)
    for site in batch_sites(model):
        weight, bias = affine_params(site.module)
        if weight is not None and site.name in chosen:
            weight.fill_(scale)
        if bias is not None:
            bias.zero_()
        for name, buffer in site.module.named_buffers(recurse=False):
            if name in FRESH_STATS:
                buffer.fill_(FRESH_STATS[name])


def set_formulation(model: nn.Module, formulation: Formulation) -> None:
    """Replace every batch-type layer with a scale by a BatchNorm of this formulation.

    Raises:
        SpecError: a layer that cannot be replaced; then none has been.
    """
    scaled = [site for site in batch_sites(model) if affine_params(site.module).weight is not None]
    new = [(site.name, reformulate(site.module, formulation)) for site in scaled]
    for name, module in new:
        replace(model, name, module)
