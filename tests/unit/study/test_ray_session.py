"""How a Ray cluster is joined; with real clusters in tests/integration/test_ray.py."""

import pytest

from normlab.study.executors.session import has_token, no_cluster


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_a_cluster_that_asks_for_a_token_says_where_it_is():
    assert not has_token()
    assert "copy the head's ~/.ray/auth_token here" in no_cluster("10.0.0.5:6379", "Failed to connect")


def test_a_token_is_found_where_ray_looks_for_it(home, monkeypatch):
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("secret")
    assert has_token()
    assert "token" not in no_cluster("10.0.0.5:6379", "Failed to connect")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "missing"))
    assert not has_token()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    assert has_token()
