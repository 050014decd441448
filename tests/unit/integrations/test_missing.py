"""Without the library, the error says which extra has it."""

from __future__ import annotations

import importlib
import sys

import pytest

from normlab.errors import Unavailable


@pytest.mark.parametrize(
    ("module", "library"),
    [("lightning", "lightning"), ("transformers", "transformers"), ("transformers", "accelerate")],
)
def test_a_missing_library_names_the_extra(monkeypatch, module, library):
    ours = f"normlab.integrations.{module}"
    for name in [name for name in sys.modules if name.startswith((ours, f"{library}."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(Unavailable, match=rf"{library}.*; pip install 'normlab\[{module}\]'"):
        importlib.import_module(ours)
