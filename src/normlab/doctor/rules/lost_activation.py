"""Norms that stood for a norm and an activation, and have lost the activation."""

from __future__ import annotations

import functools
import inspect
import re
import sys

from torch import nn

from normlab.doctor.base import Evidence, rule
from normlab.doctor.case import Case
from normlab.doctor.layers import count, names
from normlab.layers import Layer
from normlab.surgery import Site, norm_type
from normlab.surgery.conversion.adapt import tail

_MAKES_FUSED = re.compile(r"self\.(\w+)\s*=\s*[\w.]*norm_act\w*(?:\([^()]*\))?\(([^()]*)")
_MAKES_NORM = re.compile(r"(?:self\.(\w+)\s*=\s*norm_layer|add_module\(\s*['\"](\w+)['\"],\s*norm_layer)\(([^()]*)")
_NAMES_FUSED = re.compile(r"\b\w*(?:Batch|Group|Layer|Rms)Norm\w*Act")


@rule(
    "NL006",
    "lost-activation",
    kind="static",
    level="error",
    why="convert_sync_batchnorm, and loops that replace norms by hand, put a plain norm where timm has norm, dropout "
    "and activation in one layer: the network is nearly linear, and nothing warns",
    fix="normlab.convert(model, torch.nn.SyncBatchNorm) on a new model: it keeps the activations",
    thread="pytorch/pytorch#187298",
)
def lost_activation(case: Case) -> Evidence | None:
    """Norms of torch with children that they do not call; norms without, where the block's code makes them with."""
    dead = [site for site in case.sites if _dead(site.module)]
    gone = [site for site in case.sites if _is_plain(site.module) and _expected(case.model, site)]
    found = [site for site in case.sites if site in dead or site in gone]
    if not found:
        return None
    kind, lost = type(found[0].module).__name__, sorted({name for site in dead for name in _dead(site.module)})
    where = f"in {count(len(found))} of type {kind}"
    if dead:
        text = f"{' and '.join(lost)} held, but never called, {where}"
    else:
        text = f"no activation {where}, where the code of their blocks makes norms that have one"

    return Evidence(text, names(found), {"layers": len(found), "dead": len(dead)})


def _dead(module: nn.Module) -> list[str]:
    """Types of what a norm of torch holds and does not call: these have no children of their own."""
    if not type(module).__module__.startswith("torch.nn."):
        return []
    children = [child for name, child in module.named_children() if name not in tail(module)]
    return [type(child).__name__ for child in children if not isinstance(child, nn.Identity)]


def _is_plain(module: nn.Module) -> bool:
    """Neither an activation inside nor a place for one."""
    known = norm_type(module)
    own = isinstance(module, Layer) and module.activation is not None
    return known is not None and not known.fused and not own and not hasattr(module, "act")


def _expected(model: nn.Module, site: Site) -> bool:
    parent, _, attribute = site.name.rpartition(".")
    return bool(site.name) and attribute in _fused(type(model.get_submodule(parent)))


@functools.cache
def _speaks_of_fused(module: str) -> bool:
    """Do norms with an activation occur in the module at all? To find a class in it takes a tenth of a second."""
    code = inspect.getsource(sys.modules[module])
    return "norm_act" in code or _NAMES_FUSED.search(code) is not None


@functools.cache
def _fused(cls: type) -> frozenset[str]:
    """The attributes that this class, by its code, makes norms with an activation.

    timm names what makes them norm_act_layer; in densenet, dpn and resnetv2 norm_layer, with such a default.
    """
    found: set[str] = set()
    for base in cls.__mro__:
        if base is object or base.__module__.startswith("torch."):
            break
        try:
            if not _speaks_of_fused(base.__module__):
                continue
            code = inspect.getsource(base)
        except (OSError, TypeError):
            continue
        made = [(match[1], match[2]) for match in _MAKES_FUSED.finditer(code)]
        if not made and _NAMES_FUSED.search(code):
            made = [(match[1] or match[2], match[3]) for match in _MAKES_NORM.finditer(code)]
        found |= {name for name, arguments in made if not re.search(r"apply_act\s*=\s*False", arguments)}
    return frozenset(found)
