"""Which parameters are perturbed, and which of them are weights, to whose size ASAM adapts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.optim import Optimizer

from normlab.errors import SpecError
from normlab.surgery import affine_params, norm_sites, norm_type

Scope = Literal["all", "norm", "not_norm"]


class Target(NamedTuple):
    """A parameter to perturb; is it a weight, by its role in the module that owns it?"""

    parameter: Tensor
    is_weight: bool


class Targets:
    """The targets of an optimizer in a model, found again when either has got other parameters."""

    def __init__(self) -> None:
        self._seen: list[object] = []
        self._found: list[Target] = []

    def __call__(self, model: nn.Module, optimizer: Optimizer, scope: Scope) -> list[Target]:
        """As `find_targets`."""
        held = [p for group in optimizer.param_groups for p in group["params"]]
        now: list[object] = [scope, *model.parameters(), None, *held]
        if len(now) != len(self._seen) or any(a is not b for a, b in zip(now, self._seen, strict=True)):
            self._found, self._seen = find_targets(model, held, scope), now
        return self._found


def find_targets(model: nn.Module, held: Sequence[Tensor], scope: Scope) -> list[Target]:
    """The parameters that the optimizer holds and that are in scope, weights first.

    Args:
        held: what the optimizer holds.
        scope: "norm" is γ and β of every normalization layer, "not_norm" all else. What else a normalizer learns
            (logits, gates, thresholds, the attention that mixes several γ and β) is "not_norm".

    Raises:
        SpecError: the optimizer holds what is not the model's, or nothing that is in scope.
    """
    _check_owner(model, held)
    ours = set(map(id, held))
    affine = set[int]() if scope == "all" else _affine(model)
    inside = [t for t in _roles(model) if scope == "all" or (id(t.parameter) in affine) == (scope == "norm")]
    found = [target for target in inside if id(target.parameter) in ours]
    if not found:
        raise SpecError(_nothing(model, scope, len(inside)))
    return sorted(found, key=lambda target: not target.is_weight)


def _check_owner(model: nn.Module, held: Sequence[Tensor]) -> None:
    own = set(map(id, model.parameters()))
    strangers = [list(p.shape) for p in held if id(p) not in own]
    if strangers:
        raise SpecError(
            f"{len(strangers)} of the optimizer's {len(held)} parameters are none of this {type(model).__name__}'s, "
            f"the first of shape {strangers[0]}. If surgery replaced them, build the optimizer after it, or tell "
            "convert(..., optimizer=...); if they are another module's, a loss's say, pass both: "
            "SAM(optimizer, nn.ModuleList([model, loss]))"
        )


def _affine(model: nn.Module) -> set[int]:
    return {id(p) for site in norm_sites(model) for p in affine_params(site.module) if p is not None}


def _roles(model: nn.Module) -> list[Target]:
    """Every parameter once, with the role that its first owner gives it."""
    roles: dict[int, Target] = {}
    for prefix, module in model.named_modules():
        # what a parametrization holds stands for the tensor that it computes, which it is called after
        tensor = prefix.rpartition(".")[2] if isinstance(module, ParametrizationList) else None
        for name, parameter in module.named_parameters(recurse=False):
            roles.setdefault(id(parameter), Target(parameter, _is_weight(module, tensor or name)))
    return list(roles.values())


def _is_weight(module: nn.Module, name: str) -> bool:
    """γ, whatever its norm calls it, and what its owner calls a weight: weight, weight_ih_l0, in_proj_weight."""
    norm = norm_type(module)
    if norm is not None and name in (norm.weight, norm.bias):
        return name == norm.weight
    return "weight" in name


def _nothing(model: nn.Module, scope: Scope, inside: int) -> str:
    name, sites = type(model).__name__, len(norm_sites(model))
    if inside:
        return f"scope={scope!r} is {inside} parameters of {name}, and the optimizer holds none of them"
    if scope == "norm" and sites:
        return f"the {sites} normalization layers of {name} have no weight and bias to perturb: use scope='all'"
    if scope == "norm":
        return (
            f"scope='norm' needs normalization layers, and {name} has none that normlab knows: register_norm_type "
            "adds yours, scope='all' does without"
        )
    return f"scope={scope!r} leaves nothing to perturb in {name}"
