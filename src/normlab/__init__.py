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
    from normlab import optim as optim
    from normlab import probes as probes
    from normlab import surgery as surgery
    from normlab.doctor import doctor as doctor
    from normlab.functional import backend as backend
    from normlab.functional import use_backend as use_backend
    from normlab.inspect import inspect as inspect
    from normlab.landscape import landscape as landscape
    from normlab.layers import create as create
    from normlab.layers import set_progress as set_progress
    from normlab.probes import probe as probe
    from normlab.recipes import recipe as recipe
    from normlab.screen import screen as screen
    from normlab.seeding import Streams as Streams
    from normlab.study import Context as Context
    from normlab.study import Diverged as Diverged
    from normlab.study import Results as Results
    from normlab.study import Study as Study
    from normlab.surgery import convert as convert
    from normlab.surgery import fold as fold
    from normlab.surgery import freeze as freeze
    from normlab.surgery import frozen_stats as frozen_stats
    from normlab.surgery import norm_state as norm_state
    from normlab.surgery import prepare_export as prepare_export
    from normlab.surgery import recalibrate as recalibrate
    from normlab.surgery import register_norm_type as register_norm_type
    from normlab.surgery import stats_mode as stats_mode
    from normlab.surgery import sync_stats as sync_stats
    from normlab.surgery import unfreeze as unfreeze

_MODULES = ("functional", "layers", "optim", "probes", "surgery")

_NAMES = {
    "normlab.doctor": ("doctor",),
    "normlab.functional": ("backend", "use_backend"),
    "normlab.inspect": ("inspect",),
    "normlab.landscape": ("landscape",),
    "normlab.layers": ("create", "set_progress"),
    "normlab.probes": ("probe",),
    "normlab.recipes": ("recipe",),
    "normlab.screen": ("screen",),
    "normlab.seeding": ("Streams",),
    "normlab.study": ("Context", "Diverged", "Results", "Study"),
    "normlab.surgery": (
        "convert",
        "fold",
        "freeze",
        "frozen_stats",
        "norm_state",
        "prepare_export",
        "recalibrate",
        "register_norm_type",
        "stats_mode",
        "sync_stats",
        "unfreeze",
    ),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "Context",
    "Diverged",
    "NormlabError",
    "Results",
    "Streams",
    "Study",
    "__version__",
    "backend",
    "convert",
    "create",
    "doctor",
    "fold",
    "freeze",
    "frozen_stats",
    "functional",
    "inspect",
    "landscape",
    "layers",
    "norm_state",
    "optim",
    "prepare_export",
    "probe",
    "probes",
    "recalibrate",
    "recipe",
    "register_norm_type",
    "screen",
    "set_progress",
    "stats_mode",
    "surgery",
    "sync_stats",
    "unfreeze",
    "use_backend",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"normlab.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'normlab' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
