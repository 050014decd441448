"""What probes leave behind: nothing."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
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


def test_a_logger_that_raises_ends_no_training():
    class Full:
        def log(self, values, step):
            raise OSError("disk full")

    model, after = network(), []
    own = type("Own", (), {"log": lambda self, values, step: after.append(step)})()
    told = pytest.warns(UserWarning, match="Full failed at step 0: OSError: disk full. Training goes on")
    with told as warned, P.probe(model, "sigma", log=[Full(), own]) as p:
        train(model, 3)
    assert len(warned) == 1
    assert [row["step"] for row in p.rows] == after == [0, 1, 2]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class Plain(nn.Module):
    """Pickles by its name."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.norm(self.conv(x)))


def noted(module: nn.Module, args: tuple[torch.Tensor]) -> None:
    """A hook of the user, which copies keep."""


HOOKS = [name for name in vars(nn.Linear(1, 1)) if "hooks" in name]


def test_copies_made_inside_are_free_of_hooks():
    model = Plain()
    model.norm.register_forward_pre_hook(noted)
    before = {name: set(vars(m)) for name, m in model.named_modules()}
    weights = copy.deepcopy(model.state_dict())
    with P.probe(model, EVERY) as p, P.probe(model, "sigma", steps=[0]):
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        twins = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)]
        twins += [copy.deepcopy(nn.Sequential(model))[0]]
        model(batch()[0]).sum().backward()
    rows = len(p.rows)
    for twin in twins:
        left = [hook for m in twin.modules() for name in HOOKS for hook in (getattr(m, name) or {}).values()]
        assert left == [noted]
        assert {name: set(vars(m)) for name, m in twin.named_modules()} == before
        assert all(torch.equal(value, weights[name]) for name, value in twin.state_dict().items())
        twin(batch()[0])
        twin.norm._forward_pre_hooks.clear()
        assert torch.equal(torch.jit.script(twin)(batch()[0]), twin(batch()[0]))
    assert len(p.rows) == rows == 1
    assert {name: set(vars(m)) for name, m in model.named_modules()} == before


@pytest.mark.parametrize("first", [0, 1])
def test_copies_are_free_of_the_hooks_of_one_of_two_that_are_left(first):
    model = Plain()
    two = [P.probe(model, "sigma"), P.probe(model, "stable_rank")]
    for p in two:
        p.__enter__()
    two[first].close()
    twin = copy.deepcopy(model)
    two[1 - first].close()
    assert not any(getattr(m, name) for m in twin.modules() for name in HOOKS)
    assert not any("__reduce_ex__" in vars(m) for m in model.modules())


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
