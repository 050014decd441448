"""Which layers of a model `convert` is about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn

from normlab.errors import SpecError, UnknownName, require
from normlab.surgery.conversion.convolutions import why_not
from normlab.surgery.conversion.targets import Target
from normlab.surgery.sites import Site, norm_sites

Where = str | Sequence[str] | Callable[[Site], bool]


def choose(model: nn.Module, target: Target, where: Where | None) -> tuple[list[Site], list[Site]]:
    """The layers to convert, and those of the same sort that are left alone.

    Raises:
        UnknownName: a pattern that no layer's name matches.
        SpecError: there is nothing to convert; the message says what the model has instead.
    """
    sites = _convolutions(model) if target.convolution else _outermost(norm_sites(model))
    if not sites:
        raise SpecError(_nothing(model, target))
    if where is None:
        chosen = _default(sites, target)
    elif callable(where):
        chosen = [site for site in sites if where(site)]
    else:
        patterns = [where] if isinstance(where, str) else where
        require(patterns, Sequence, "where is a pattern of layer names, a list of them, or a function of a Site")
        chosen = _matching(model, sites, patterns)
    if not chosen:
        kinds = Counter(type(site.module).__name__ for site in sites)
        raise SpecError(f"no layer was chosen to become {target.text}; the model has {_listed(kinds)}")
    taken = {id(site.module) for site in chosen}
    return chosen, [site for site in sites if id(site.module) not in taken]


def _default(sites: list[Site], target: Target) -> list[Site]:
    if target.convolution:
        return [site for site in sites if why_not(site.module, target) is None]
    return [site for site in sites if site.kind == "batch"] or sites


def _outermost(sites: list[Site]) -> list[Site]:
    """Without the norms that are parts of other norms, and go when these go."""
    inner = {id(part) for site in sites for part in list(site.module.modules())[1:]}
    return [site for site in sites if id(site.module) not in inner]


def _convolutions(model: nn.Module) -> list[Site]:
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    return [Site(name, module, "other", "weight", "bias") for name, module in found]


def names_of(model: nn.Module) -> dict[int, tuple[str, ...]]:
    """Every name that each module has, by its id."""
    found: dict[int, tuple[str, ...]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        found[id(module)] = (*found.get(id(module), ()), name)
    return found


def _matching(model: nn.Module, sites: list[Site], patterns: Sequence[str]) -> list[Site]:
    names = names_of(model)
    chosen: set[int] = set()
    for pattern in patterns:
        hit = {id(s.module) for s in sites if any(fnmatchcase(name, pattern) for name in names[id(s.module)])}
        if not hit:
            known = [name for site in sites for name in names[id(site.module)]]
            raise UnknownName("layer", pattern, get_close_matches(pattern, known, n=12, cutoff=0))
        chosen |= hit
    return [site for site in sites if id(site.module) in chosen]


def _nothing(model: nn.Module, target: Target) -> str:
    leaves = Counter(type(module).__name__ for module in model.modules() if not list(module.children()))
    sort = "Conv2d" if target.convolution else "normalization layer"
    near = [name for name in leaves if "norm" in name.lower()]
    hint = f" register_norm_type makes {near[0]} known, if its weight is the scale itself." if near else ""
    return f"{type(model).__name__} has no {sort} that could become {target.text}; it has {_listed(leaves)}.{hint}"


def _listed(kinds: Counter[str]) -> str:
    shown = [f"{count} {name}" for name, count in kinds.most_common(6)]
    return ", ".join(shown) + (", ..." if len(kinds) > 6 else "") or "no layers"
