"""Choose a normalization, apply it to a network, see what it does, and prove that it helps.

The names below are resolved on first use (PEP 562): `import normlab` loads neither torch nor NumPy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from normlab.errors import NormlabError

__version__ = "0.1.0"

if TYPE_CHECKING:
    from normlab import functional as functional
    from normlab import layers as layers
    from normlab.functional import backend as backend
    from normlab.functional import use_backend as use_backend
    from normlab.layers import create as create
    from normlab.recipes import recipe as recipe
    from normlab.seeding import Streams as Streams
    from normlab.study import Context as Context
    from normlab.study import Diverged as Diverged
    from normlab.study import Results as Results
    from normlab.study import Study as Study

_HOME = {
    "backend": "normlab.functional",
    "use_backend": "normlab.functional",
    "create": "normlab.layers",
    "recipe": "normlab.recipes",
    "Streams": "normlab.seeding",
    "Context": "normlab.study",
    "Diverged": "normlab.study",
    "Results": "normlab.study",
    "Study": "normlab.study",
}

__all__ = [
    "Context",
    "Diverged",
    "NormlabError",
    "Results",
    "Streams",
    "Study",
    "__version__",
    "backend",
    "create",
    "functional",
    "layers",
    "recipe",
    "use_backend",
]


def __getattr__(name: str) -> Any:
    if name in ("functional", "layers"):
        return importlib.import_module(f"normlab.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'normlab' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
