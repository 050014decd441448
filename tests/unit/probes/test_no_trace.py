"""What probes leave behind: nothing."""

from __future__ import annotations

import copy
import io
import itertools
import weakref
from contextlib import suppress

import pytest
import torch
from torch import nn
from torch.optim.optimizer import _global_optimizer_post_hooks
from torch.profiler import ProfilerActivity, profile

from normlab import probes as P
from tests.unit.probes.models import batch, network, train

EVERY = list(P.PROBES)


def test_hooks_go_when_the_loop_raises():
    model = network()

    def stops(steps):
        train(model, steps)
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"), P.probe(model, EVERY) as p:
        stops(2)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert [row["step"] for row in p.rows] == [0, 1]
    train(model, 1)
    assert p.steps_done == 2


def test_hooks_go_when_a_logger_raises():
    class Full:
        def log(self, values, step):
            raise OSError("disk full")

    model = network()
    with pytest.raises(OSError, match="disk full"), P.probe(model, EVERY, log=Full()):
        train(model, 2)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_copies_made_inside_are_free_of_probes():
    model = network()
    with P.probe(model, EVERY) as p:
        copied = copy.deepcopy(model)
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=False)
        train(model, 1)
    rows = len(p.rows)
    for twin in (copied, loaded):
        train(twin, 1)
    assert len(p.rows) == rows


def test_two_at_once_do_not_see_each_other():
    model = network()
    with P.probe(model, "sigma") as p, P.probe(model, EVERY, every=2) as q:
        train(model, 3)
    assert (len(p.rows), len(q.rows)) == (3, 2)
    assert p.rows[0]["norm/1/sigma"] == q.rows[0]["norm/1/sigma"]


def test_no_activation_is_kept_beyond_its_layer():
    model = nn.Sequential(*(part for _ in range(4) for part in (nn.Linear(5, 5), nn.BatchNorm1d(5), nn.ReLU())))
    outputs = []

    def note(module, args, y):
        outputs.append(weakref.ref(y))
        assert all(older() is None for older in outputs[:-2]), "an activation outlives the layer that takes it"

    for part in model:
        part.register_forward_hook(note)
    with torch.no_grad(), P.probe(model, [name for name in EVERY if name != "gradient_norm"]):
        model(torch.randn(6, 5))
    assert len(outputs) == 12


def test_memory_formats_stay():
    model = network().to(memory_format=torch.channels_last)
    formats = []
    hook = model[4].register_forward_pre_hook(
        lambda m, a: formats.append(a[0].is_contiguous(memory_format=torch.channels_last))
    )
    x = batch()[0].contiguous(memory_format=torch.channels_last)
    with P.probe(model, EVERY):
        model(x).sum().backward()
    hook.remove()
    assert formats == [True]


def test_peak_memory_is_that_of_a_plain_step():
    model = nn.Sequential(*(part for _ in range(6) for part in (nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU())))
    x = torch.randn(16, 8, 24, 24)

    def step():
        model(x).square().mean().backward()

    def peak():
        model.zero_grad()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            step()
        events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
        live = itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()))
        return max(live)

    step()
    plain = peak()
    with P.probe(model, EVERY) as p:
        probed = peak()
    assert p.rows
    assert probed <= plain + 4 * x.nbytes  # what a measurement needs while it lasts; a kept layer has 18 such tensors


def test_optimizers_are_not_listened_to_any_more():
    model = network()
    before = len(_global_optimizer_post_hooks)
    with suppress(KeyboardInterrupt), P.probe(model, EVERY):
        assert len(_global_optimizer_post_hooks) == before + 1
        raise KeyboardInterrupt
    assert len(_global_optimizer_post_hooks) == before


def test_rows_share_their_keys():
    """Or else a long training would keep the names of all its layers once for each measured step."""
    model = network()
    with P.probe(model, "sigma") as p:
        train(model, 2)
    assert all(a is b for a, b in zip(p.rows[0], p.rows[1], strict=True))
