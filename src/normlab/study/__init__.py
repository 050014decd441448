"""Paired-seed studies: spec → plan → runs → store → stats → report, each a function of the one before.

The names below are resolved on first use, so that `normlab.study.stats` stays free of torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from normlab.study.context import Context as Context
    from normlab.study.context import Diverged as Diverged
    from normlab.study.study import Results as Results
    from normlab.study.study import Study as Study

_HOME = {
    "Context": "normlab.study.context",
    "Diverged": "normlab.study.context",
    "Results": "normlab.study.study",
    "Study": "normlab.study.study",
}

__all__ = ["Context", "Diverged", "Results", "Study"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'normlab.study' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
