"""Ranks normalizers for a model and a batch size before training: `normlab.screen(model, data, batch_size=32)`.

The module can be called; that is `screen`.
"""

from __future__ import annotations

import sys
from types import ModuleType

from normlab.screen.agreement import Agreement, Panel, Tau, kendall
from normlab.screen.candidates import DEFAULT, Affine, put
from normlab.screen.measure import Properties
from normlab.screen.screening import Ranked, Refused, Screening, screen

__all__ = [
    "DEFAULT",
    "Affine",
    "Agreement",
    "Panel",
    "Properties",
    "Ranked",
    "Refused",
    "Screening",
    "Tau",
    "kendall",
    "put",
    "screen",
]


class _Callable(ModuleType):
    """Importing a module `normlab.screen` puts it where the function of that name is expected: it is both."""

    __call__ = staticmethod(screen)


sys.modules[__name__].__class__ = _Callable
