from __future__ import annotations

import pytest

from normlab.study.data import forget


@pytest.fixture(autouse=True)
def own_places(tmp_path, monkeypatch):
    """A cache of its own for every test, and no data directory."""
    monkeypatch.setenv("NORMLAB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("NORMLAB_DATA_DIR", raising=False)
    forget()
    yield
    forget()
