"""Running statistics are the averages that the options name: told here by the weight of each batch."""

from __future__ import annotations

import pytest
import torch

from normlab.layers import create
from tests.conftest import TOLERANCE

STEPS = 4
AVERAGES = {
    "": lambda t: 0.1 * 0.9 ** (STEPS - t),
    "momentum=0.3": lambda t: 0.3 * 0.7 ** (STEPS - t),
    "momentum=None": lambda t: 1 / STEPS,
    "momentum=1.0": lambda t: float(t == STEPS),
    "momentum=0.0": lambda t: 0.0,
    "momentum=0.7, momentum_convention='keep'": lambda t: 0.3 * 0.7 ** (STEPS - t),
    "momentum=None, momentum_convention='keep'": lambda t: 1 / STEPS,
}
"""Weight of batch t = 1 … STEPS after the last; what is left goes to the first value."""


@pytest.mark.parametrize("debias", [False, True], ids=["", "debias"])
@pytest.mark.parametrize("stored", ["unbiased", "biased"])
@pytest.mark.parametrize("first", [(0.0, 1.0), (2.0, 0.5)], ids=str)
@pytest.mark.parametrize("options", AVERAGES)
@pytest.mark.parametrize("name", ["batch", "instance", "variance", "mean_only", "ghost"])
def test_running_statistics_are_weighted_averages(name, options, first, stored, debias):
    own = {"instance": "track_running_stats=True, "}.get(name, "")
    spec = f"{name}({own}running_init={first}, running_var={stored!r}, debias={debias}{', ' * bool(options)}{options})"
    layer = create(spec, num_features=2, dtype=torch.float64)
    found = []
    for _ in range(STEPS):
        x = torch.randn(4, 2, 3).double() * 2 + 1
        layer(x)
        found.append(statistics(x, 0 if stored == "biased" else 1, by_example=name == "instance"))
    weights = [AVERAGES[options](t) for t in range(1, STEPS + 1)]
    seen = sum(weights)
    for key, (one, *_), before in zip(("mean", "var"), zip(*found, strict=True), first, strict=True):
        assert one.shape == (2,)
        if f"running_{key}" in dict(layer.named_buffers()):
            newest = sum(w * batch[key == "var"] for w, batch in zip(weights, found, strict=True))
            near(layer.get_buffer(f"running_{key}"), newest + (1 - seen) * before)
            told = newest / seen if debias and seen else newest + (1 - seen) * before
            near(layer.running(f"running_{key}"), told)
    assert layer.num_batches_tracked == STEPS


def statistics(x, ddof, by_example):
    """Mean and variance [C] of a batch; or of each example, averaged."""
    if by_example:
        return x.mean(2).mean(0), x.var(2, correction=ddof).mean(0)
    return x.mean((0, 2)), x.var((0, 2), correction=ddof)


def near(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCE[torch.float64])


def test_sums_of_moments_are_divided_in_eval_mode():
    layer = create("switch(moving_average=False)", num_features=2, dtype=torch.float64)
    batches = [torch.randn(4, 2, 3).double() + t for t in range(3)]
    for x in batches:
        layer(x)
    means, seconds = (
        torch.stack([f(x) for x in batches]) for f in (lambda x: x.mean((0, 2)), lambda x: x.square().mean((0, 2)))
    )
    near(layer.running_mean, means.sum(0))
    near(layer.running_var, seconds.sum(0))
    plain = create("switch", num_features=2, dtype=torch.float64).eval()
    plain.load_state_dict(
        {"running_mean": means.mean(0), "running_var": seconds.mean(0) - means.mean(0) ** 2}, strict=False
    )
    near(layer.eval()(batches[0]), plain(batches[0]))


def test_ghost_batches_are_counted_one_after_another():
    whole, parts = (create(spec, num_features=2, dtype=torch.float64) for spec in ("ghost(ghost_size=2)", "batch"))
    x = torch.randn(6, 2, 3).double()
    y = whole(x)
    near(y, torch.cat([parts(part) for part in x.split(2)]))
    for name, buffer in parts.named_buffers():
        assert torch.allclose(whole.get_buffer(name), buffer, rtol=0, atol=1e-12), name


@pytest.mark.parametrize(
    "spec",
    [
        "batch(guard_nonfinite=True)",
        "batch(guard_nonfinite=True, momentum=None)",
        "batch(guard_nonfinite=True, momentum=0.9, momentum_convention='keep', debias=True)",
        "ghost(guard_nonfinite=True, ghost_size=2)",
        "ghost(guard_nonfinite=True, ghost_size=2, momentum=None)",
        "switch(guard_nonfinite=True, moving_average=False)",
        "switch(guard_nonfinite=True, using_in=False)",
        "instance(guard_nonfinite=True, track_running_stats=True)",
    ],
)
def test_a_batch_that_is_not_finite_is_as_none(spec):
    layer, other = (create(spec, num_features=2, dtype=torch.float64) for _ in range(2))
    for value in (0.0, float("nan"), 1.0, float("-inf")):
        x = torch.randn(4, 2, 3).double()
        x[0, 1, 2] += value
        layer(x)
        if x.isfinite().all():
            other(x)
    for name, buffer in other.named_buffers():
        torch.testing.assert_close(layer.get_buffer(name), buffer, rtol=0, atol=0)
