"""`normlab.landscape`: what it finds, that it finds it again, and that nothing is left behind."""

from __future__ import annotations

import json
import math
import random
import re

import numpy as np
import pytest
import torch
from torch import nn

import normlab
from normlab.errors import SpecError, UnknownName
from normlab.landscape import PARTS, landscape
from normlab.landscape.fixed import Fixed
from tests.unit.probes.models import batch, network

QUICK = {"steps": 4, "points": 3, "only": "curves"}


def trace(model):
    """All that a measurement could leave a trace in."""
    held = [(name, id(p), p.detach().clone()) for name, p in (*model.named_parameters(), *model.named_buffers())]
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    return [(type(m), m.training) for m in model.modules()], hooks, held, grads, states


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def plain(report):
    found = report.as_json()
    del found["seconds"]
    return found


@pytest.fixture(scope="module")
def full():
    torch.manual_seed(0)
    return landscape(network(), batch(), steps=6, points=3, lr=0.1)


def test_every_part_is_measured_of_both_networks(full):
    for track in (full.given, full.other):
        assert [*track.curves] == [0, 3, 6]
        assert [*track.ics] == [*track.lipschitz] == [0, 3, 6]
        assert len(track.slice.at) == 21
        assert track.surface.losses.shape == (11, 11)
        assert set(track.sharpness) == {"all", "norm"}
        assert len(track.ablation) == len(track.reliance) == 3
        assert len(track.losses) == 7  # before each step, and after the last
    assert set(full.factors()) == {
        "loss variation",
        "gradient predictiveness",
        "effective β-smoothness",
        "Lipschitz constant",
    }


def test_both_networks_begin_as_the_same_function(full):
    given, other = full.given.curves[0], full.other.curves[0]
    assert other.loss == pytest.approx(given.loss, rel=1e-5)
    assert other.losses != pytest.approx(given.losses, rel=1e-3)  # only one of them follows the batch


def test_the_words_give_the_factors(full):
    assert str(full).startswith("Sequential: 3 BatchNorm2d; a batch, 8x3x8x8 and 8")
    text = " ".join(str(full).split())
    factor = full.factors()["loss variation"].median
    value = factor if factor > 1 else 1 / factor
    assert re.search(r"loss variation \S+ times (less|more)|loss variation alike", text)
    shown = re.search(r"loss variation ([\d.,]+) times", text)
    assert shown is None or float(shown[1].replace(",", "")) == pytest.approx(value, rel=0.06)
    assert max(map(len, str(full).splitlines())) <= 130


def test_files(full, tmp_path):
    paths = full.write(tmp_path / "new" / "folder")
    assert {path.name for path in paths} == {"landscape.json", *(f"{name}.svg" for name in PARTS)}
    assert json.loads(paths[0].read_text())["given"]["name"] == "BatchNorm2d"
    for path in paths[1:]:
        text = path.read_text()
        assert text.startswith("<svg")
        assert "prefers-color-scheme:dark" in text
        assert "nan" not in text.lower().replace("nance", "")
        assert path.stat().st_size < 100_000


def test_the_same_seed_gives_the_same_numbers():
    model, given = network(), batch()
    first = plain(landscape(model, given, steps=3, points=2, only="curves,slice,sharpness"))
    torch.rand(3)
    assert plain(landscape(model, given, steps=3, points=2, only="curves,slice,sharpness")) == first
    assert (
        plain(landscape(model, given, steps=3, points=2, only="slice", seed=1))["given"]["slice"]
        != first["given"]["slice"]
    )


@pytest.mark.parametrize("against", ["none", "group(num_groups=3)", None])
@pytest.mark.parametrize("training", [True, False])
def test_no_trace(against, training):
    model = nn.Sequential(*network(), nn.Dropout(0.5))
    nn.functional.cross_entropy(model(batch()[0]), batch()[1]).backward()
    model.train(training)
    model[1].eval()
    before = trace(model)
    landscape(model, batch(), against=against, steps=2, points=2)
    assert same(trace(model), before)


def test_no_trace_when_the_model_raises_half_way():
    model, calls = network(), []
    before = trace(model)

    def loss(net, given):
        calls.append(1)
        if len(calls) > 20:
            raise KeyError("broken")
        return nn.functional.cross_entropy(net(given[0]), given[1])

    with pytest.raises(KeyError):
        landscape(model, batch(), loss=loss, **QUICK)
    assert same(trace(model), before)


def test_out_of_memory_suggests_a_smaller_batch():
    calls = []

    def loss(net, given):
        calls.append(1)
        if len(calls) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return nn.functional.cross_entropy(net(given[0]), given[1])

    with pytest.raises(SpecError, match=r"out of memory.*smaller batch"):
        landscape(network(), batch(), loss=loss, **QUICK)


class Dict(nn.Module):
    """Two inputs, a dict as output."""

    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, x, scale):
        return {"logits": self.net(x * scale), "hidden": x}


class WithLoss(Dict):
    """Outputs a loss of its own."""

    def forward(self, x, labels):
        scores = self.net(x)
        return {"loss": nn.functional.cross_entropy(scores, labels), "logits": scores}


class Image(nn.Module):
    """No scores: an image, in a tuple."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.norm(self.conv(x)), 3


@pytest.mark.parametrize(
    ("model", "given", "words"),
    [
        (network, lambda: batch()[0], "random labels"),
        (network, lambda: "8x3x8x8", "random labels"),
        (Dict, lambda: (batch()[0], torch.ones(1), batch()[1]), "loss: cross-entropy"),
        (Dict, lambda: {"x": batch()[0], "scale": torch.ones(1)}, "random labels"),
        (WithLoss, lambda: {"x": batch()[0], "labels": batch()[1]}, "the model's own"),
        (Image, lambda: batch()[0], "mean square"),
    ],
)
def test_losses(model, given, words):
    report = landscape(model(), given(), **QUICK)
    assert words in report.data
    assert all(math.isfinite(at.loss) for at in report.given.curves.values())
    assert report.given.accuracy is None or words == "loss: cross-entropy"


def test_a_loader_is_gone_round_in_and_left_as_it_was():
    x, y = batch(20)
    generator = torch.Generator().manual_seed(0)
    data = torch.utils.data.TensorDataset(x, y)
    loader = torch.utils.data.DataLoader(data, batch_size=8, shuffle=True, generator=generator)
    before = generator.get_state()
    report = landscape(network(), loader=loader, **QUICK)
    assert torch.equal(generator.get_state(), before)
    assert report.data.startswith("2 batches")  # the last one is smaller and left out


def test_bad_input_one_by_one():
    x, y = batch()
    frozen = network().requires_grad_(False)
    for model, options, message in [
        (network(), {"batch": (x * math.nan, y)}, "NaN or infinity"),
        (network(), {"batch": (x, y + 4)}, "labels from 4 to 7"),
        (network(), {"batch": "8x3"}, "does not run on the batch"),
        (network(), {"batch": "8,3"}, "should be sizes"),
        (network(), {}, "give data"),
        (network(), {"batch": (x, y), "loader": [(x, y)]}, "one of them"),
        (network(), {"loader": []}, "gave no batch"),
        (network(), {"loader": 3}, "give batches"),
        (frozen, {"batch": (x, y)}, "frozen"),
        (network(), {"batch": (x, y), "device": "cuda:99"}, "cannot be used"),
        (network(), {"batch": (x, y), "lr": 0}, "above 0"),
        (network(), {"batch": (x, y), "steps": -1}, "0 or more"),
        (network(), {"batch": (x, y), "only": ","}, "names no part"),
        (network().to("meta"), {"batch": (x, y)}, "meta device"),
        (3, {"batch": (x, y)}, "torch module"),
    ]:
        with pytest.raises(SpecError, match=message):
            landscape(model, **options)
    with pytest.raises(UnknownName, match="did you mean 'curves'"):
        landscape(network(), (x, y), only="curve")
    with pytest.raises(UnknownName, match="did you mean 'group'"):
        landscape(network(), (x, y), against="grup")


def test_a_network_without_norms_is_measured_alone():
    report = landscape(network(lambda _: nn.Identity()), batch(), **QUICK)
    assert report.other is None
    assert "nothing to compare" in str(report)


def test_a_network_that_diverges_is_said_to():
    report = landscape(network(), batch(), steps=30, points=4, lr=1e30, only="curves,slice")
    tracks = [track for track in (report.given, report.other) if track.diverged is not None]
    assert tracks
    assert "the loss is no number at step" in str(report)
    assert tracks[0].slice is None
    json.dumps(report.as_json(), allow_nan=False)


def test_compiled_and_wrapped_models_are_looked_into():
    model = network()
    compiled = torch.compile(model, backend="eager")
    report = landscape(compiled, batch(), **QUICK)
    assert plain(report) == plain(landscape(model, batch(), **QUICK))


def test_steps_0_looks_around_the_weights_as_they_are():
    model = network()
    report = landscape(model, batch(), steps=0, only="curves,sharpness")
    assert [*report.given.curves] == [0]
    x, y = batch()
    expected = normlab.probes.landscape(
        model, lambda: nn.functional.cross_entropy(model(x), y), step_sizes=report.settings.step_sizes
    )
    assert report.given.curves[0] == expected


def test_fixed_is_batch_norm_on_its_first_batch_and_linear_from_then_on():
    x = torch.randn(8, 4, 5, 5) * 3 + 2
    norm, fixed = nn.BatchNorm2d(4), Fixed(4)
    torch.testing.assert_close(fixed(x), norm(x), rtol=0, atol=2e-5)
    torch.testing.assert_close(fixed(2 * x) - fixed(x), fixed(x) - fixed(0 * x), rtol=0, atol=1e-4)


def test_the_expected_cost_is_said_first():
    said = []
    landscape(network(), batch(), say=said.append, **QUICK)
    assert re.fullmatch(r"expected: about .* for 2.networks with 31 passes forward and backward .*", said[0])
