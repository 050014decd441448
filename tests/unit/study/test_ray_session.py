"""How a Ray cluster is joined; with real clusters in tests/integration/test_ray.py."""

from normlab.study.executors.session import no_cluster


def test_a_cluster_that_asks_for_a_token_says_what_to_set(monkeypatch):
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    assert "set RAY_AUTH_MODE=token here" in no_cluster("10.0.0.5:6379", "Failed to connect")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert "token" not in no_cluster("10.0.0.5:6379", "Failed to connect")


def test_a_traceback_of_rays_proxy_is_its_last_line():
    inside = (
        'Traceback (most recent call last):\n  File "proxier.py", line 772\nRuntimeError: Timeout waiting for channel\n'
    )
    told = no_cluster("ray://head:1", f"Initialization failure from server:\n{inside}")
    assert "from server: RuntimeError: Timeout waiting for channel" in told
