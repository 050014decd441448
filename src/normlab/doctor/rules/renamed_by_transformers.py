"""Parameters that transformers loads under another name."""

from __future__ import annotations

import re
from importlib import metadata

from torch import nn

from normlab.doctor.base import Evidence, rule
from normlab.doctor.case import Case
from normlab.doctor.layers import count

SCOPED = (4, 49)  # since then only names that end in LayerNorm.gamma and LayerNorm.beta
REPAIRED = (5, 3)  # since then a model's own names are left alone


@rule(
    "NL028",
    "renamed-by-transformers",
    kind="static",
    level="error",
    why="from_pretrained renames gamma to weight and beta to bias, for the sake of old BERT checkpoints: such "
    "parameters are not found, and hold new values, or what was in memory, with a warning at most",
    fix="call them weight and bias, or scale and shift; or pip install 'transformers>=5.3'",
    thread="huggingface/transformers#29554",
)
def renamed_by_transformers(case: Case) -> Evidence | None:
    """Names that the installed version renames, in a PreTrainedModel."""
    inside = [name for name, module in case.model.named_modules() if _is_pretrained(module)]
    version = _version()
    if not inside or version >= REPAIRED:
        return None
    scoped = version >= SCOPED
    pattern = re.compile(r"LayerNorm\.(gamma|beta)$" if scoped else r"gamma|beta")
    keys = [*dict(case.model.named_parameters()), *dict(case.model.named_buffers())]
    found = [key for key in keys if pattern.search(key) and any(key.startswith(name) for name in inside)]
    if not found:
        return None
    text = f"transformers {version[0]}.{version[1]} renames {count(len(found), 'tensor')} as it loads them"
    return Evidence(text, tuple(found), {"names": len(found)})


def _is_pretrained(module: nn.Module) -> bool:
    return any(cls.__name__ == "PreTrainedModel" for cls in type(module).__mro__)


def _version() -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in metadata.version("transformers").split(".")[:2])
    except (metadata.PackageNotFoundError, ValueError):
        return REPAIRED
