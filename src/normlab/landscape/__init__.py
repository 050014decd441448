"""How smooth a network's loss is, with its norms and without: `normlab.landscape(model, batch)`.

The module can be called; that is `landscape`.
"""

from __future__ import annotations

import sys
from types import ModuleType

from normlab.landscape.driver import landscape
from normlab.landscape.parts import PARTS
from normlab.landscape.result import LandscapeReport, Track

__all__ = ["PARTS", "LandscapeReport", "Track", "landscape"]


class _Callable(ModuleType):
    """Importing a module `normlab.landscape` puts it where the function of that name is expected: it is both."""

    __call__ = staticmethod(landscape)


sys.modules[__name__].__class__ = _Callable
