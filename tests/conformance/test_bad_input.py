"""What cannot be is refused and leaves no trace; NaN is kept out of statistics where that is asked for."""

from __future__ import annotations

import re
import sys

import pytest
import torch

from normlab import functional as F
from normlab.errors import SpecError, Unavailable
from normlab.functional import backends
from normlab.layers import NORMS, create
from tests.conformance.registry import BATCH, DEFAULTS, assert_same, copied, on

BAD = {
    "another number of channels": (lambda c: torch.randn(BATCH, c + 1, 3, 5), r"takes \d+ channels.*got \d+"),
    "channels at the end": (lambda c: torch.randn(BATCH, 3, 5, c), r"channels.*movedim"),
    "one dimension": (torch.randn, r"got 1 dimensions?.*x\[None\]"),
    "six dimensions": (lambda c: torch.randn(BATCH, c, 1, 2, 3, 2), "got 6 dimensions"),
    "whole numbers": (lambda c: torch.ones(BATCH, c, 3, 5, dtype=torch.int64), r"int64.*x\.float\(\)"),
    "truth values": (lambda c: torch.ones(BATCH, c, 3, 5, dtype=torch.bool), r"bool.*x\.float\(\)"),
    "complex numbers": (lambda c: torch.ones(BATCH, c, 3, 5, dtype=torch.complex64), "complex64"),
}
IMPOSSIBLE = [
    ("group(num_groups=4)", "num_groups=4 does not divide num_features=6; 3 does"),
    ("group(num_groups=0)", "num_groups=0 does not divide num_features=6; 1 does"),
    ("group(num_groups=-2)", "num_groups=-2 does not divide"),
    ("group", "num_groups=32 does not divide num_features=6; 6 does"),
    ("group(ddof=2)", "ddof=2"),
    ("batch(eps=-1e-05)", "eps=-1e-05 should be a number, 0 or more"),
    ("batch(activation='gelu')", "activation='gelu'"),
    ("batch(batch1='running', track_running_stats=False)", "needs running statistics: track_running_stats=True"),
    ("batch(momentum_convention='tf')", "momentum_convention='tf'"),
    ("batch(running_var='exact')", "running_var='exact'"),
    ("batch(momentum='0.1')", "momentum='0.1'"),
    ("batch(num_groups=2)", "unknown argument of norm 'batch': 'num_groups'"),
    ("instance(one_value='nan')", "one_value='nan'"),
    ("meta(U=[[1, 0], [1, 2]])", "U should hold 0 and 1 only; it has 2"),
    ("meta(U=[[1, 0]])", r"U should be a square matrix; got shape \[1, 2\]"),
    ("meta(U=[[1, 0], [1]])", "U should be .* a square matrix"),
    ("meta(U=[[1, 0], [0, 0]])", "row 1 of U is all 0: its set is empty"),
    ("meta(V=[[1, 0], [0, 1]])", r"V is \[2, 2\]; for 6 channels it should be \[6, 6\]"),
    ("meta(V=[[1, 0], [1, 0]])", "column 1 of V is all 0: its set is empty"),
    ("meta(U='all')", "U='all'"),
    ("switch(variance='biased')", "variance='biased'"),
    ("sparse_switch(centre='middle')", "centre='middle'"),
    ("frn(learn_eps='yes')", "learn_eps='yes'"),
    ("frn(eps=-1.0)", "eps=-1.0 should be a number, 0 or more"),
    ("ilm(num_groups=3)", "key_group_size=16 does not divide num_features=6"),
    ("ilm(key_group_size=2, num_groups=4)", "num_groups=4 does not divide num_features=6"),
    ("ilm(key_group_size=0)", "key_group_size=0 does not divide"),
    ("attentive(mode=7)", "mode=7"),
    ("attentive(backbone='layer')", "backbone='layer'"),
    ("attentive(backbone='group')", "num_groups=32 does not divide num_features=6"),
    ("attentive(attention_norm='group', attention_groups=3)", "num_groups=3 does not divide num_features=10"),
    ("ghost(ghost_size=0)", "ghost_size=0 should be a number of examples"),
    ("ghost(sync=True)", "leave it out"),
    ("batch_renorm(rmax=0.5)", "rmax=0.5, dmax=5.0 should be at least 1 and 0"),
    ("batch_renorm(dmax=-1.0)", "dmax=-1.0 should be at least 1 and 0"),
    ("batch_renorm(track_running_stats=False)", "track_running_stats=True"),
    ("bach", "did you mean 'batch'"),
]
CALLS = [
    ("group(num_groups=6)", (4, 6), r"more than 1 value per group, got input size .*6 groups.*one_value='bias'"),
    ("group(num_groups=6, ddof=1, one_value='bias')", (4, 6), "more than 1 value per group"),
    ("instance", (4, 6), "more than 1 value per group"),
    ("instance(track_running_stats=True)", (4, 6, 1, 1), "more than 1 value per group"),
    ("layer(spatial=(3, 5))", (4, 6, 5, 3), r"spatial=\(3, 5\)\) takes .*6, 3, 5\].*got \[4, 6, 5, 3\]"),
    ("layer(spatial=(3, 5))", (4, 6), r"takes .*6, 3, 5\].*got \[4, 6\]"),
    ("meta", (4, 6), "a set of U and V holds one value.*one_value='bias'"),
    ("meta(U=[[1, 0], [0, 1]])", (4, 6, 3, 5), r"U is \[2, 2\], so a batch has 2 examples; got 4"),
    ("meta(U=[[1, 1], [0, 1]])", (2, 6), "a set of U and V holds one value"),
    ("switch(variance='official')", (4, 6), "divides by .positions - 1.*'exact'"),
    ("ilm(num_groups=6, key_group_size=2)", (4, 6), "hold one value"),
    ("attentive", (4, 6), "one position.*'mean'"),
    ("attentive", (1, 6, 3, 5), "more than 1 value per channel"),
    ("ghost(ghost_size=3)", (4, 6, 3, 5), "a batch of 4 is no multiple of ghost_size=3.*drop_last=True"),
    ("batch(sync=True)", (4, 6, 3, 5), "torch.distributed.init_process_group"),
]


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("example", DEFAULTS, ids=str)
def test_inputs_that_cannot_be(example, kind):
    make, message = BAD[kind]
    for training in (True, False):
        layer = example.layer().train(training)
        before = copied(layer)
        with pytest.raises(SpecError, match=message):
            layer(make(example.channels))
        assert_same(copied(layer), before)


@pytest.mark.parametrize(("spec", "message"), IMPOSSIBLE)
def test_options_that_cannot_be(spec, message):
    with pytest.raises(SpecError, match=message):
        create(spec, num_features=6)


@pytest.mark.parametrize("name", NORMS)
def test_a_layer_has_channels(name):
    for channels in (0, -1):
        with pytest.raises(SpecError, match=f"{channels}"):
            create(name, num_features=channels)


@pytest.mark.parametrize(("spec", "shape", "message"), CALLS)
def test_calls_that_cannot_be(spec, shape, message):
    layer = create(spec, num_features=6)
    before = copied(layer)
    with pytest.raises(SpecError, match=message):
        layer(torch.randn(shape))
    assert_same(copied(layer), before)


@pytest.mark.parametrize("example", DEFAULTS, ids=str)
def test_a_residual_is_as_the_input(example):
    layer = example.layer()
    x = example.fitting(layer, torch.float32)
    for residual in (torch.randn(1, *x.shape[1:]), x.double()):
        with pytest.raises(SpecError, match=re.escape(f"got {list(residual.shape)} of {residual.dtype}")):
            layer(x, residual)


GUARDED = [name for name in NORMS if "guard_nonfinite" in NORMS.hints(name)]


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
@pytest.mark.parametrize("backend", ["eager", "numba", None])
@pytest.mark.parametrize("guard", [True, False], ids=["guard", "no-guard"])
@pytest.mark.parametrize("name", GUARDED)
def test_guard_keeps_what_is_not_finite_out_of_the_statistics(name, guard, backend, value):
    example = next(e for e in DEFAULTS if e.name == name)
    layer = example.layer(torch.float32, **tracking(name), guard_nonfinite=guard)
    good = example.fitting(layer, torch.float32)
    bad = good.clone()
    bad[1, 2] = value
    with on(backend):
        layer(good)
        before = copied(layer)
        layer(bad)
        after = copied(layer)
        layer(good)
    if guard:
        assert_same(after, before)
        assert copied(layer)["num_batches_tracked"] == 2
    else:
        statistics = [key for key in after if "running" in key]
        assert statistics
        assert all(not after[key].isfinite().all() for key in statistics if "." not in key)
        assert after["num_batches_tracked"] == 2


def tracking(name):
    return {"track_running_stats": True} if "track_running_stats" in NORMS.hints(name) else {}


@pytest.mark.parametrize("name", ["numba", "triton"])
def test_a_backend_without_its_package_says_what_to_install(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"normlab.functional.backends.{name}", raising=False)
    monkeypatch.delattr(backends, name, raising=False)
    with pytest.raises(Unavailable, match=f"needs the package {name}.*pip install {name}"), F.use_backend(name):
        pass
    assert backends.forced() is None


@pytest.mark.parametrize("example", DEFAULTS, ids=str)
def test_a_dtype_that_a_backend_does_not_take_is_an_error_and_nothing_else_runs(example):
    layer = example.layer(torch.bfloat16)
    x, before = example.fitting(layer, torch.bfloat16), copied(layer)
    message = "numba takes float32 and float64; x is torch.bfloat16"
    with pytest.raises(Unavailable, match=message), F.use_backend("numba"):
        layer(x)
    assert_same(copied(layer), before)
