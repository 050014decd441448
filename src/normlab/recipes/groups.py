"""Sorts a model's parameters into optimizer groups.

The paper decays "convolution and fully connected weights only" and divides the learning rate of the scales of batch
normalization by c. By role, decided by the type of the owning module:

    weight      of convolution, linear, bilinear, embedding, recurrent and attention layers: decays
    norm_scale  the weight (γ) of the normalization layers that the recipe acts on: no decay, lr / c
    norm_shift  their bias (β), where the recipe has a rate of its own for it: no decay
    no_decay    all else, at full lr: biases and shifts; scales of layers that the recipe does not act on, such as
                LayerNorm by default; α of formulation a2; and parameters of other modules, such as the slope of a
                PReLU, layer scale, class token and position embedding
    mix_logits  and whatever else a layer names in its `TrainingRule`s: no decay, a rate of its own

Each group also says its `lr_divisor`, so that a schedule can be checked against it, and its rule's `max_norm`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd  # pyright: ignore[reportPrivateUsage]
from torch.nn.utils.parametrize import ParametrizationList

from normlab.errors import SpecError
from normlab.layers.rules import TrainingRule, training_rules
from normlab.surgery import Site, norm_type

Rule = Literal["role", "name_shape"]
ROLES = ("no_decay", "norm_scale", "weight", "norm_shift")  # the first three in the order of the official code's groups

_WEIGHTED = (
    _ConvNd,
    nn.Linear,
    nn.Bilinear,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.MultiheadAttention,
)


def roles_by_type(model: nn.Module, sites: Sequence[Site]) -> dict[str, str]:
    """The role of each parameter, by its first name, from the type of the modules that hold it.

    Args:
        sites: the layers that a recipe acts on.

    Raises:
        SpecError: a parameter held by several modules that give it different roles.
    """
    acted_on = {id(site.module) for site in sites}
    ruled = {(id(module), name): rule.group for module, name, rule in training_rules(model)}
    stands_for: dict[int, tuple[nn.Module, str]] = {}
    found: dict[int, tuple[str, str | None]] = {}
    for prefix, module in model.named_modules():
        for tensor, inner in _parametrizations(module):
            stands_for[id(inner)] = (module, tensor)
        for name, parameter in module._parameters.items():  # pyright: ignore[reportPrivateUsage] - also those seen before
            if parameter is None:
                continue
            owner, tensor = stands_for.get(id(module), (module, name))
            role = ruled.get((id(owner), tensor)) or _role(owner, tensor, id(owner) in acted_on)
            _add(found, parameter, f"{prefix}.{name}" if prefix else name, role)
    return {name: role or "no_decay" for name, role in found.values()}


def _add(found: dict[int, tuple[str, str | None]], parameter: nn.Parameter, name: str, role: str | None) -> None:
    """Note a parameter's role; one that has been met before keeps its name, and its role if there is none here."""
    first, before = found.setdefault(id(parameter), (name, role))
    if before is not None and role is not None and before != role:
        raise SpecError(f"{first} is also {name}, and would land in two groups, {before!r} and {role!r}: untie them")
    found[id(parameter)] = first, before or role


def _parametrizations(module: nn.Module) -> list[tuple[str, nn.Module]]:
    # what torch.nn.utils.parametrizations keeps in place of a weight has the role of that weight
    inside = getattr(module, "parametrizations", None)
    if not isinstance(inside, nn.ModuleDict):
        return []
    return [(name, inner) for name, inner in inside.items() if isinstance(inner, ParametrizationList)]


def _role(module: nn.Module, name: str, acted_on: bool) -> str | None:
    """None where the type of the module says nothing about this parameter, which does not decay then."""
    norm = norm_type(module)
    if norm is not None and name in (norm.weight, norm.bias):
        return ("norm_scale" if name == norm.weight else "norm_shift") if acted_on else "no_decay"
    # weight, weight_ih_l0, in_proj_weight; a subclass's own gain or bias is none of these
    is_weight = name.startswith("weight") or name.endswith("_weight")
    return "weight" if norm is None and isinstance(module, _WEIGHTED) and is_weight else None


def roles_by_name_and_shape(parameters: Iterable[tuple[str, Tensor]]) -> dict[str, str]:
    """The official rule: squeezed to one dimension and called weight, else squeezed to one dimension, else the rest.

    It takes Linear(n, 1) for a scale, and decays a scale of one channel. Kept to reproduce published numbers.

    Source: Davis and Frank, official code, `weight_decay_and_learning_rate.py`.
    """

    def role(name: str, parameter: Tensor) -> str:
        if parameter.squeeze().dim() != 1:
            return "weight"
        return "norm_scale" if "weight" in name else "no_decay"

    return {name: role(name, parameter) for name, parameter in parameters}


RULES: Mapping[str, Callable[[nn.Module, Sequence[Site]], dict[str, str]]] = {
    "role": roles_by_type,
    "name_shape": lambda model, _: roles_by_name_and_shape(model.named_parameters()),
}


def build_groups(
    parameters: Iterable[tuple[str, nn.Parameter]],
    roles: Mapping[str, str],
    *,
    lr: float,
    weight_decay: float,
    lr_divisor: float,
    factor: float = 1.0,
    rules: Mapping[str, TrainingRule] | None = None,
) -> list[dict[str, Any]]:
    """Trainable parameters by role, in the order given; roles without any are left out.

    Args:
        lr_divisor: of norm_scale, factor: what the rate of norm_shift is multiplied by; with 1 they are no_decay.
        rules: by name of their group.
    """
    rules = rules or {}
    by_role: dict[str, list[nn.Parameter]] = {role: [] for role in (*ROLES, *rules)}
    for name, parameter in parameters:
        if parameter.requires_grad:
            role = roles[name]
            by_role["no_decay" if role == "norm_shift" and factor == 1 else role].append(parameter)
    divisors = {"norm_scale": lr_divisor, "norm_shift": 1 / factor, **{k: rule.lr_divisor for k, rule in rules.items()}}
    return [
        {
            "name": role,
            "params": params,
            "lr": lr / divisors.get(role, 1.0),
            "weight_decay": weight_decay if role == "weight" else 0.0,
            "lr_divisor": divisors.get(role, 1.0),
        }
        | ({"max_norm": rules[role].max_norm} if role in rules else {})
        for role, params in by_role.items()
        if params
    ]


def check_cover(model: nn.Module, groups: Iterable[Mapping[str, object]]) -> None:
    """See that the groups hold every trainable parameter of the model once, and nothing else.

    Raises:
        SpecError: one is missing, there twice, frozen, or of another model.
    """
    wrong = cover_faults(model, groups)
    if wrong:
        raise SpecError(f"each trainable parameter should be in exactly one group: {', '.join(wrong)}")
    if not any(p.requires_grad for p in model.parameters()):
        raise SpecError(f"{type(model).__name__} has no trainable parameter: requires_grad is off for all")


def cover_faults(model: nn.Module, groups: Iterable[Mapping[str, object]]) -> list[str]:
    """What is wrong with the groups as a cover of the model's trainable parameters, in words."""
    wanted = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    counts: dict[int, int] = {}
    for group in groups:
        params = group["params"]
        assert isinstance(params, list)
        for parameter in params:
            counts[id(parameter)] = counts.get(id(parameter), 0) + 1
    wrong = [f"{name} is in {counts.get(key, 0)} groups" for key, name in wanted.items() if counts.get(key, 0) != 1]
    strangers = sum(key not in wanted for key in counts)
    return wrong + ([f"{strangers} are no trainable parameters of this model"] if strangers else [])
