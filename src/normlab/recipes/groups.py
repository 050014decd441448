"""Sorts a model's parameters into optimizer groups.

The paper decays "convolution and fully connected weights only" and divides the learning rate of the scales of batch
normalization by c. By role, decided by the type of the owning module:

    weight      of convolution, linear, bilinear, embedding, recurrent and attention layers: decays
    norm_scale  the weight (γ) of batch-type normalization: no decay, lr / c
    no_decay    all else, at full lr: biases and shifts; scales of LayerNorm, GroupNorm and the like, which the recipe
                does not act on; α of formulation a2; and parameters of other modules, such as the slope of a PReLU,
                layer scale, class token and position embedding
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd  # pyright: ignore[reportPrivateUsage]
from torch.nn.utils.parametrize import ParametrizationList

from normlab.errors import SpecError
from normlab.surgery import norm_type

Role = Literal["no_decay", "norm_scale", "weight"]
Rule = Literal["role", "name_shape"]
ROLES: tuple[Role, ...] = ("no_decay", "norm_scale", "weight")  # the order of the official code's groups

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


def roles_by_type(model: nn.Module) -> dict[str, Role]:
    """The role of each parameter, by its first name, from the type of the module that owns it."""
    roles: dict[str, Role] = {}
    stands_for: dict[int, tuple[nn.Module, str]] = {}
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        for tensor, inner in _parametrizations(module):
            stands_for[id(inner)] = (module, tensor)
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                owner = stands_for.get(id(module), (module, name))
                roles[f"{prefix}.{name}" if prefix else name] = _role(*owner)
    return roles


def _parametrizations(module: nn.Module) -> list[tuple[str, nn.Module]]:
    # what torch.nn.utils.parametrizations keeps in place of a weight has the role of that weight
    inside = getattr(module, "parametrizations", None)
    if not isinstance(inside, nn.ModuleDict):
        return []
    return [(name, inner) for name, inner in inside.items() if isinstance(inner, ParametrizationList)]


def _role(module: nn.Module, name: str) -> Role:
    norm = norm_type(module)
    if norm is not None:
        return "norm_scale" if norm.kind == "batch" and name == norm.weight else "no_decay"
    # weight, weight_ih_l0, in_proj_weight; a subclass's own gain or bias is none of these
    is_weight = name.startswith("weight") or name.endswith("_weight")
    return "weight" if isinstance(module, _WEIGHTED) and is_weight else "no_decay"


def roles_by_name_and_shape(parameters: Iterable[tuple[str, Tensor]]) -> dict[str, Role]:
    """The official rule: squeezed to one dimension and called weight, else squeezed to one dimension, else the rest.

    It takes Linear(n, 1) for a scale, and decays a scale of one channel. Kept to reproduce published numbers.

    Source: Davis and Frank, official code, `weight_decay_and_learning_rate.py`.
    """

    def role(name: str, parameter: Tensor) -> Role:
        if parameter.squeeze().dim() != 1:
            return "weight"
        return "norm_scale" if "weight" in name else "no_decay"

    return {name: role(name, parameter) for name, parameter in parameters}


RULES: Mapping[str, Callable[[nn.Module], dict[str, Role]]] = {
    "role": roles_by_type,
    "name_shape": lambda model: roles_by_name_and_shape(model.named_parameters()),
}


def build_groups(
    parameters: Iterable[tuple[str, nn.Parameter]],
    roles: Mapping[str, Role],
    *,
    lr: float,
    weight_decay: float,
    lr_divisor: float,
) -> list[dict[str, Any]]:
    """Trainable parameters by role, in the order given; roles without any are left out."""
    by_role: dict[Role, list[nn.Parameter]] = {role: [] for role in ROLES}
    for name, parameter in parameters:
        if parameter.requires_grad:
            by_role[roles[name]].append(parameter)
    return [
        {
            "name": role,
            "params": params,
            "lr": lr / lr_divisor if role == "norm_scale" else lr,
            "weight_decay": weight_decay if role == "weight" else 0.0,
        }
        for role, params in by_role.items()
        if params
    ]


def check_cover(model: nn.Module, groups: Iterable[Mapping[str, object]]) -> None:
    """See that the groups hold every trainable parameter of the model once, and nothing else.

    Raises:
        SpecError: one is missing, there twice, frozen, or of another model.
    """
    wanted = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    counts: dict[int, int] = {}
    for group in groups:
        params = group["params"]
        assert isinstance(params, list)
        for parameter in params:
            counts[id(parameter)] = counts.get(id(parameter), 0) + 1
    wrong = [f"{name} is in {counts.get(key, 0)} groups" for key, name in wanted.items() if counts.get(key, 0) != 1]
    strangers = sum(key not in wanted for key in counts)
    wrong += [f"{strangers} are no trainable parameters of this model"] if strangers else []
    if wrong:
        raise SpecError(f"each trainable parameter should be in exactly one group: {', '.join(wrong)}")
    if not wanted:
        raise SpecError(f"{type(model).__name__} has no trainable parameter: requires_grad is off for all")
