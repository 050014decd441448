"""Which normalization layers a recipe acts on."""

from __future__ import annotations

from collections import Counter
from fnmatch import fnmatchcase
from typing import Literal

from torch import nn

from normlab.errors import SpecError, UnknownName
from normlab.recipes.input_norm import InputNormalized
from normlab.recipes.wrapped import bare, plain_name
from normlab.surgery import Site, norm_sites

Norms = Literal["batch", "all"]


def chosen_sites(model: nn.Module, norms: Norms = "batch", scope: str = "all") -> list[Site]:
    """The layers that a recipe acts on, and the one that normalizes the input; not those inside other such layers.

    Args:
        norms: "batch" for those that normalize by batch moments, "all" for every kind. Frozen ones never count.
        scope: "all", or patterns of layer names with commas between: `"layer*.bn1, !layer4.*"`. A layer is in scope if
            one of the patterns fits its name and none of those with "!" does; with none but those, every other is.

    Raises:
        UnknownName: a pattern that fits no layer.
    """
    root = bare(model)
    own = root[0] if isinstance(root, InputNormalized) else None
    every = norm_sites(root)
    parts = {id(part) for site in every for part in list(site.module.modules())[1:]}
    kinds = [s for s in every if not s.frozen and id(s.module) not in parts and (norms == "all" or s.kind == "batch")]
    names = {id(site.module): _name(site, own is not None) for site in kinds if site.module is not own}
    chosen = _in_scope(list(names.values()), scope)
    return [site for site in kinds if site.module is own or names[id(site.module)] in chosen]


def _name(site: Site, behind_input_norm: bool) -> str:
    name = plain_name(site.name)
    return name.removeprefix("1.") if behind_input_norm else name


def _in_scope(names: list[str], scope: str) -> set[str]:
    if scope == "all":
        return set(names)
    patterns = parse_scope(scope)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern.removeprefix("!")) for name in names):
            raise UnknownName("layer in scope", pattern.removeprefix("!"), names)
    wanted = [pattern for pattern in patterns if not pattern.startswith("!")] or ["*"]
    unwanted = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    return {
        name
        for name in names
        if any(fnmatchcase(name, pattern) for pattern in wanted)
        and not any(fnmatchcase(name, pattern) for pattern in unwanted)
    }


def parse_scope(scope: str) -> list[str]:
    """The patterns of a scope.

    Raises:
        SpecError: an empty one.
    """
    patterns = [pattern.strip() for pattern in scope.split(",")] if isinstance(scope, str) else [""]  # pyright: ignore[reportUnnecessaryIsInstance]
    if not all(pattern.removeprefix("!") for pattern in patterns):
        raise SpecError(f"scope={scope!r} should be 'all' or patterns of layer names, as in 'layer*.bn1, !layer4.*'")
    return patterns


def describe(sites: list[Site]) -> str:
    """`12 LayerNorm, 3 GroupNorm`, by type."""
    counts = Counter(type(site.module).__name__ for site in sites)
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())
