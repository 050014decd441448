"""Running statistics and counters move once in a step, by the batch at w, whatever normalizes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from normlab.errors import Unavailable
from normlab.optim import SAM
from normlab.study.models import import_timm
from tests.conformance.registry import DEFAULTS
from tests.unit.optim.problems import batch, closure_of, network, sgd


class Custom(nn.Module):
    """A normalizer of nobody's: buffers in a submodule, written in place and put in place, one shared, one counter."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.inner = nn.Module()
        self.inner.register_buffer("size", torch.ones(channels, dtype=torch.float64))
        self.inner.register_buffer("same", self.inner.size)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long), persistent=False)
        self.register_buffer("latest", None)

    def forward(self, x: Tensor) -> Tensor:
        size = x.detach().square().mean((0, 2, 3)).sqrt()
        self.inner.size.lerp_(size, 0.5)
        assert self.inner.same is self.inner.size
        self.steps += 1
        self.latest = size
        return x * (self.weight / self.inner.same).view(1, -1, 1, 1)


def timm_layer(name: str):
    def build(channels: int) -> nn.Module:
        try:
            return getattr(import_timm().layers, name)(channels)
        except Unavailable as error:
            pytest.skip(str(error))

    return build


NORMS = {
    "torch": nn.BatchNorm2d,
    "cumulative": lambda c: nn.BatchNorm2d(c, momentum=None),
    "instance": lambda c: nn.InstanceNorm2d(c, affine=True, track_running_stats=True),
    "custom": Custom,
    "timm": timm_layer("BatchNormAct2d"),
    "timm-evo": timm_layer("EvoNorm2dB0"),
}


def buffers(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.named_buffers()}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("protocol", ["closure", "two passes"])
def test_row_14_and_pitfall_1_the_second_pass_does_not_move_running_statistics(norm, protocol):
    net, (x, t) = network(NORMS[norm]), batch()
    plain = copy.deepcopy(net)
    sam = SAM(sgd(net), net, 0.5)
    for _ in range(2):
        plain.load_state_dict(net.state_dict(), strict=False)
        plain(x)
        held = {name: id(b) for name, b in net.named_buffers() if not name.endswith("latest")}
        if protocol == "closure":
            sam.step(closure_of(sam, net, x, t))
        else:
            nn.functional.cross_entropy(net(x), t).backward()
            sam.first_step()
            nn.functional.cross_entropy(net(x), t).backward()
            sam.second_step(zero_grad=True)
        assert {name: id(b) for name, b in net.named_buffers() if not name.endswith("latest")} == held
        torch.testing.assert_close(buffers(net), buffers(plain), rtol=0, atol=0)


class Scaled(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.gain = layer, nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.gain * x)


@pytest.mark.parametrize("example", DEFAULTS, ids=str)
def test_statistics_of_every_normalizer_move_once(example):
    net = Scaled(example.layer(torch.float64))
    x, plain = example.fitting(net.layer), copy.deepcopy(net)
    up = torch.randn_like(x)
    sam = SAM(torch.optim.SGD(net.parameters(), lr=0.1), net, 0.1)
    torch.manual_seed(1)
    plain(x)
    torch.manual_seed(1)
    (net(x) * up).sum().backward()
    sam.first_step()
    (net(x) * up).sum().backward()
    sam.second_step()
    torch.testing.assert_close(buffers(net), buffers(plain), rtol=0, atol=0)


def test_statistics_move_in_both_passes_on_demand():
    net, (x, t) = network(), batch()
    there = copy.deepcopy(net)
    sam = SAM(sgd(net), net, 0.5, update_stats="twice")
    there(x)
    nn.functional.cross_entropy(net(x), t).backward()
    sam.first_step()
    there.load_state_dict(dict(net.named_parameters()), strict=False)
    nn.functional.cross_entropy(net(x), t).backward()
    sam.second_step()
    there(x)
    torch.testing.assert_close(buffers(net), buffers(there), rtol=0, atol=0)
    assert net[1].num_batches_tracked == 2


def test_micro_batches_are_counted_as_in_plain_training():
    net, (x, t) = network(), batch()
    sam = SAM(sgd(net), net)

    def closure():
        sam.zero_grad()
        for part in (slice(0, 4), slice(4, 8)):
            nn.functional.cross_entropy(net(x[part]), t[part]).backward()

    sam.step(closure)
    assert net[1].num_batches_tracked == 2


@pytest.mark.parametrize("wrap", ["model", "compiled"])
def test_a_compiled_model_is_trained_like_the_plain_one_and_compiled_once(wrap):
    torch.compiler.reset()
    net, (x, t) = network(), batch()
    plain = copy.deepcopy(net)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(net, backend=backend)
    sam, other = SAM(sgd(net), net if wrap == "model" else compiled, 0.3, scope="norm"), None
    other = SAM(sgd(plain), plain, 0.3, scope="norm")
    for _ in range(3):
        sam.step(closure_of(sam, compiled, x, t))
        other.step(closure_of(other, plain, x, t))
    torch.testing.assert_close(net.state_dict(), plain.state_dict(), rtol=1e-12, atol=1e-12)
    assert len(graphs) == 1
