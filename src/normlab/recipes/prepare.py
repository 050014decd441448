"""What a recipe does to a model before training, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from normlab.errors import SpecError
from normlab.layers.batch import Formulation
from normlab.layers.running import BatchLayer
from normlab.recipes.input_norm import InputNormalized
from normlab.recipes.scope import Norms, chosen_sites, describe
from normlab.recipes.values import Values, ZeroScale
from normlab.seeding import Streams
from normlab.surgery import Site, affine_params, norm_sites, norm_type
from normlab.surgery.conversion.targets import read_target
from normlab.surgery.convert import convert
from normlab.surgery.statistics.borrow import gpus_of

FRESH_STATS = {"running_mean": 0.0, "running_var": 1.0, "num_batches_tracked": 0.0}


@dataclass(frozen=True)
class ScalePlan:
    """What a recipe does to the scales of a model's normalization layers, by name of the layer.

    Args:
        set: get the initial scale.
        kept: all zeros, by somebody's zero-initialised residual branches, and left at that.
        without: have no scale.
        outside: out of the recipe's scope, and left as they are.
        what: what the layers are called.
    """

    set: tuple[str, ...]
    kept: tuple[str, ...]
    without: tuple[str, ...]
    outside: tuple[str, ...] = ()
    what: str = "BatchNorm"

    def __str__(self) -> str:
        parts = [f"{len(self.set)} set"]
        parts += [f"{len(self.kept)} zero-initialised and kept"] if self.kept else []
        parts += [f"{len(self.without)} layers without one"] if self.without else []
        parts += [f"{len(self.outside)} out of scope"] if self.outside else []
        return f"{self.what} scales: " + ", ".join(parts)


def plan_scales(model: nn.Module, zero_scale: ZeroScale, norms: Norms = "batch", scope: str = "all") -> ScalePlan:
    """Sort the layers by what becomes of their scales; changes nothing."""
    names: dict[str, list[str]] = {"set": [], "kept": [], "without": [], "outside": []}
    chosen = {id(site.module) for site in chosen_sites(model, norms, scope)}
    for site in chosen_sites(model, norms):
        weight = affine_params(site.module).weight
        if id(site.module) not in chosen:
            names["outside"].append(site.name)
        elif weight is None:
            names["without"].append(site.name)
        elif zero_scale == "keep" and not weight.detach().any():
            names["kept"].append(site.name)
        else:
            names["set"].append(site.name)
    what = "BatchNorm" if norms == "batch" else "norm"
    return ScalePlan(**{key: tuple(value) for key, value in names.items()}, what=what)


def check_model(model: nn.Module, values: Values, *, force: bool) -> ScalePlan:
    """Refuse a model that the recipe cannot act on, before anything is changed.

    Raises:
        SpecError: prepared before, lazy or meta parameters, no layer (with a scale) to act on, trained weights without
            `force`, or scales of zeros that are not going to be trained.
    """
    check_materialised(model)
    plan = plan_scales(model, values.zero_scale, values.norms, values.scope)
    reached = plan.set + plan.kept + (plan.without if values.scale is None or _as_made(values) else ())
    if not reached and not _of_convolutions(values):
        raise SpecError(_nothing_to_act_on(model, values))
    check_untrained(chosen_sites(model, values.norms), model, force=force)
    if plan.kept and not values.train_scale:
        raise SpecError(
            f"{len(plan.kept)} zero-initialised scales ({plan.kept[0]}, ...) would stay 0 for good if scales are not "
            "trained: zero_scale='overwrite' sets them too, or build the model without (timm: zero_init_last=False)"
        )
    return plan


def apply(model: nn.Module, values: Values, plan: ScalePlan, streams: Streams | None) -> nn.Module:
    """Give the norms their initial values, and replace them where the recipe says so; the model, or its new root."""
    if values.scale is not None:
        if values.scaled_eps:
            _scale_eps(chosen_sites(model, values.norms, values.scope), values.scale**2)
        set_scales(model, values.scale, plan, values.norms, values.scope)
    if values.formulation != "standard":
        model = _reformulated(model, values.formulation, values.scope)
    if values.to is not None:
        assert streams is not None
        model = _converted(model, values, values.to, streams)
    if not values.train_scale:
        for site in chosen_sites(model, values.norms, values.scope):
            _fix(site)
    return model


def check_materialised(model: nn.Module) -> None:
    """Refuse what is no bare model with values in it."""
    if isinstance(model, InputNormalized):
        raise SpecError("this model has its input normalized already: prepare model.unwrap()")
    lazy = [name for name, parameter in model.named_parameters() if is_lazy(parameter)]
    if lazy:
        raise SpecError(f"{lazy[0]} has no shape yet: run one forward pass through the lazy layers first")
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise SpecError("parts of the model are on the meta device: model.to_empty(device=...) gives them memory first")


def scales_off(model: nn.Module, values: Values) -> str | None:
    """How many scales have another initial value than the recipe's, in words; None if none has.

    An initial value is one for all channels: scales that differ by channel have been trained.
    """
    if values.scale is None:
        return None
    # The scale of a norm of the input is γ₀ · sigma_act; a trainer's module holds it somewhere below.
    own = [module[0] for module in model.modules() if isinstance(module, InputNormalized)]
    sites = [site for site in chosen_sites(model, values.norms, values.scope) if site.module not in own]
    weights = [affine_params(site.module).weight for site in sites]
    given = [w for w in weights if w is not None and w.detach().any()]
    starts = [float(w.detach().flatten()[0]) for w in given if w.detach().max() == w.detach().min()]
    off = sum(abs(start - values.scale) > 1e-3 * values.scale for start in starts)
    return f"{off} of {len(given)} scales are not at γ₀ = {values.scale:g}" if off else None


def _nothing_to_act_on(model: nn.Module, values: Values) -> str:
    norms, sites = values.norms, chosen_sites(model, values.norms, values.scope)
    called = "BatchNorm" if norms == "batch" else "normalization"
    where = "" if values.scope == "all" else " in scope"
    why = f"none of its {len(sites)} {called} layers has a scale" if sites else f"it has no {called} layer{where}"
    others = [site for site in norm_sites(model) if site.kind != "batch" and not site.frozen]
    frozen = [site for site in norm_sites(model) if site.frozen]
    if not sites and values.scope != "all":
        hints = [f"scope={values.scope!r} leaves all of its layers out."]
    else:
        hints = ["register_norm_type makes a type of yours known."]
    hints += [f"norms='all' acts on its {describe(others)}."] if others and norms == "batch" else []
    hints += [f"Its {describe(frozen)} are frozen by construction: `convert` them first."] if frozen else []
    return (
        f"a recipe acts on {called} scales, and {type(model).__name__} has nothing to act on: {why}. {' '.join(hints)}"
    )


def check_untrained(sites: list[Site], model: nn.Module, *, force: bool) -> None:
    """Refuse trained weights: moved running statistics; where there are none, a scale or shift that is not uniform."""
    moved = [site for site in sites if any(bool((stat != fresh).any()) for stat, fresh in _stats(site.module))]
    uneven = [site for site in sites if site.kind != "batch" and not _stats(site.module) and _is_uneven(site.module)]
    if not force and (moved or uneven):
        kind = "BatchNorm" if all(site.kind == "batch" for site in sites) else "normalization"
        found, sign = (moved, "running statistics") if moved else (uneven, "scales or shifts that differ by channel,")
        raise SpecError(
            f"{len(found)} of {len(sites)} {kind} layers have {sign} of earlier training "
            f"({found[0].name or type(model).__name__}, ...): these look like pretrained weights, and a recipe for "
            "training from scratch would overwrite them. Build the model without them, or pass force=True."
        )


def _stats(module: nn.Module) -> list[tuple[Tensor, float]]:
    """Running statistics and counter of a layer, each with the value that it has in a new one."""
    fresh = dict(FRESH_STATS)
    if isinstance(module, BatchLayer):
        mean, var = module.running_init
        fresh |= {name: mean if name == "running_mean" else var for name in module.TRACKED}
    return [(buffer, fresh[name]) for name, buffer in module.named_buffers(recurse=False) if name in fresh]


def _is_uneven(module: nn.Module) -> bool:
    values = [p.detach() for p in affine_params(module) if p is not None]
    return any(bool((value != value.flatten()[0]).any()) for value in values if value.numel())


@torch.no_grad()
def set_scales(model: nn.Module, scale: float, plan: ScalePlan, norms: Norms, scope: str) -> None:
    """Scales to `scale` as planned, shifts in scope to 0; all running statistics to those of a new layer."""
    for site in chosen_sites(model, norms, scope):
        weight, bias = affine_params(site.module)
        if weight is not None and site.name in plan.set:
            weight.fill_(scale)
        if bias is not None:
            bias.zero_()
    for site in chosen_sites(model, norms):
        for stat, fresh in _stats(site.module):
            stat.fill_(fresh)


def _scale_eps(sites: Sequence[Site], share: float) -> None:
    found = [(site.module, known.eps) for site in sites if (known := norm_type(site.module)) is not None]
    for module, name in found:
        if not isinstance(getattr(module, name, None), float):
            raise SpecError(f"scaled_eps: {type(module).__name__} has no eps of its own that could be scaled")
    for module, name in found:
        setattr(module, name, getattr(module, name) * share)


def _reformulated(model: nn.Module, formulation: Formulation, scope: str) -> nn.Module:
    """The model with a BatchNorm of this formulation for every batch-type layer in scope that has a scale."""
    sites = chosen_sites(model, "batch", scope)
    chosen = {id(site.module) for site in sites if affine_params(site.module).weight is not None}
    return convert(model, f"batch(formulation={formulation!r})", where=lambda site: id(site.module) in chosen).model


def _converted(model: nn.Module, values: Values, to: str, streams: Streams) -> nn.Module:
    """The model with other layers, whose random initial values, if they have any, come from the streams."""
    chosen = {id(site.module) for site in chosen_sites(model, values.norms, values.scope)}
    gpus = gpus_of(model)
    with torch.random.fork_rng(gpus):
        seed = streams.integer("init", "convert")
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            torch.cuda.default_generators[gpu].manual_seed(seed)
        if _of_convolutions(values):
            return convert(model, to).model
        return convert(model, to, where=lambda site: id(site.module) in chosen).model


def _as_made(values: Values) -> bool:
    """Do all norms start and learn as they would without a recipe, so that one without a scale will do?"""
    return (values.norms, values.scale, values.lr_divisor, values.train_scale) == ("all", 1.0, 1, True)


def _of_convolutions(values: Values) -> bool:
    return values.to is not None and read_target(values.to).convolution


def _fix(site: Site) -> None:
    weight = affine_params(site.module).weight
    if weight is not None:
        weight.requires_grad_(False)


def check_fixed(sites: Sequence[Site], name: str) -> None:
    """Refuse scales that are still to be trained, where the recipe called `name` trains none."""
    for site in sites:
        weight = affine_params(site.module).weight
        if weight is not None and weight.requires_grad:
            raise SpecError(
                f"{name} trains no scales, and that of {site.name!r} has requires_grad: prepare(model) first"
            )
