"""Finds the failures of normalization layers that people report: `normlab.doctor(model, batch)`.

The module can be called; that is `doctor`.
"""

from __future__ import annotations

import sys
from types import ModuleType

from normlab.doctor.base import RULES, Evidence, Rule
from normlab.doctor.examine import doctor
from normlab.doctor.findings import Finding, Findings, Unchecked

__all__ = ["RULES", "Evidence", "Finding", "Findings", "Rule", "Unchecked", "doctor"]


class _Callable(ModuleType):
    """Importing a module `normlab.doctor` puts it where the function of that name is expected: it is both."""

    __call__ = staticmethod(doctor)


sys.modules[__name__].__class__ = _Callable
