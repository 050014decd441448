"""Shows what normalization does to a network, layer by layer: `normlab.inspect(model, batch)`.

The module can be called; that is `inspect`.
"""

from __future__ import annotations

import sys
from types import ModuleType

from normlab.inspect.examine import inspect
from normlab.inspect.layers import Affine
from normlab.inspect.measure import Row
from normlab.inspect.ranges import RANGES, Range
from normlab.inspect.report import Report
from normlab.inspect.verdict import Statement

__all__ = ["RANGES", "Affine", "Range", "Report", "Row", "Statement", "inspect"]


class _Callable(ModuleType):
    """Importing a module `normlab.inspect` puts it where the function of that name is expected: it is both."""

    __call__ = staticmethod(inspect)


sys.modules[__name__].__class__ = _Callable
