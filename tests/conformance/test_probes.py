"""Probes leave no trace: a run with them equals one without, bit for bit, whatever normalizes."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from normlab import probes as P
from normlab.errors import SpecError
from normlab.layers import CONVS
from normlab.study.models import import_timm
from tests.conformance.registry import DEFAULTS, Example
from tests.conformance.torch_cases import WITH

timm = import_timm()
EVERY = list(P.PROBES)
CONVOLUTIONS = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
SIZES = {"resnet18": 64, "mobilenetv2_100": 64, "vit_tiny_patch16_224": 32}

Built = tuple[nn.Module, Tensor]


def around(example: Example) -> Built:
    """A layer of weights, the norm, ReLU, dropout and another layer of weights; and an input that they take."""
    norm = example.layer(torch.float32, **WITH.get(example.name, {}))
    x = example.fitting(norm, torch.float32)
    c = example.channels
    weights = [nn.Linear(c, c) if x.dim() == 2 else CONVOLUTIONS[x.dim()](c, c, 1) for _ in range(2)]
    in_place = example.options.get("activation") is None  # else the norm needs what it gave
    return nn.Sequential(weights[0], norm, nn.ReLU(inplace=in_place), nn.Dropout(0.2), weights[1]), x


def of_convolutions(name: str) -> Built:
    """Two convolutions with a normalized kernel around BatchNorm, ReLU and dropout."""
    convs = [CONVS.create(name, in_channels=c, out_channels=6, kernel_size=3, padding=1) for c in (3, 6)]
    return nn.Sequential(convs[0], nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Dropout(0.2), convs[1]), torch.randn(
        4, 3, 6, 5
    )


def of_timm(name: str) -> Built:
    size = SIZES[name]
    options = {"img_size": size} if name.startswith("vit") else {}
    return timm.create_model(name, num_classes=4, drop_rate=0.1, **options), torch.randn(4, 3, size, size)


def generators() -> list[Any]:
    return [torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()]


def run(build: Callable[[], Built], steps: int, *, measured: bool) -> tuple[list[Any], dict[str, Tensor], list[Any]]:
    """Losses and gradients of every step; weights, buffers and momentum; states of the generators.

    The loop raises in the middle of a last step that is measured, and is gone on with.
    """
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    model, x = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    seen: list[Any] = []

    def train(count: int) -> None:
        for step in range(count):
            optimizer.zero_grad(set_to_none=step > 0)
            loss = model.train()(x).square().mean()
            loss.backward()
            seen.extend([loss.detach(), *(None if q.grad is None else q.grad.clone() for q in model.parameters())])
            optimizer.step()

    def is_interrupted() -> None:
        train(steps)
        with torch.no_grad():
            seen.append(model.eval()(x))
        model.train()(x)
        raise KeyboardInterrupt

    with suppress(KeyboardInterrupt), P.probe(model, EVERY, every=2) if measured else nullcontext() as p:
        is_interrupted()
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())
    train(1)
    assert p is None or [row["step"] for row in p.rows] == list(range(0, steps, 2))
    momentum = {f"momentum of {i}": s["momentum_buffer"] for i, s in optimizer.state_dict()["state"].items()}
    return seen, model.state_dict() | momentum, generators()


def identical(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and a.stride() == b.stride() and torch.equal(a.nan_to_num(7e7), b.nan_to_num(7e7))
    return a == b


def check(build: Callable[[], Built], steps: int) -> None:
    plain, probed = (run(build, steps, measured=measured) for measured in (False, True))
    assert len(plain[0]) == len(probed[0])
    assert all(map(identical, plain[0], probed[0])), "losses or gradients"
    assert plain[1].keys() == probed[1].keys()
    assert not [name for name, value in plain[1].items() if not identical(value, probed[1][name])]
    assert all(map(identical, plain[2], probed[2])), "random generators"


@pytest.mark.filterwarnings("ignore:.* was measured at no layer")
@pytest.mark.parametrize("example", DEFAULTS, ids=str)
def test_registered_norms(example, monkeypatch):
    monkeypatch.setattr(f"{__name__}.EVERY", _fitting(around(example)[0]))
    check(lambda: around(example), 2)


@pytest.mark.parametrize("name", CONVS)
def test_registered_convolutions(name):
    check(lambda: of_convolutions(name), 2)


def _fitting(model: nn.Module) -> list[str]:
    return [name for name in EVERY if _fits(name, model)]


def _fits(name: str, model: nn.Module) -> bool:
    try:
        P.probe(model, name)
    except SpecError:
        return False
    return True


@pytest.mark.parametrize("name", SIZES)
def test_networks_of_timm(name):
    check(lambda: of_timm(name), 2)


def test_a_model_in_channels_last():
    def build():
        model, x = of_timm("resnet18")
        return model.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)

    check(build, 1)


def test_a_model_in_bfloat16():
    def build():
        model, x = of_timm("mobilenetv2_100")
        return model.bfloat16(), x.bfloat16()

    check(build, 1)
