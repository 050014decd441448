"""A small network, its data, and training loops written out by hand."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

RHO = 0.3


def network(norm=nn.BatchNorm2d) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), norm(4), nn.ReLU(), nn.Conv2d(4, 6, 3, bias=False), norm(6), nn.ReLU(), nn.Flatten(),
        nn.Linear(6 * 2 * 2, 3),
    )  # fmt: skip


def examples(n: int = 24) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(n, 2, 6, 6, generator=generator) + 1, torch.arange(n) % 3


def batches(size: int = 4, n: int = 24) -> list[tuple[Tensor, Tensor]]:
    x, t = examples(n)
    return list(zip(x.split(size), t.split(size), strict=True))


def loss_of(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, t = batch
    return F.cross_entropy(net(x).float(), t)


def sgd(groups) -> torch.optim.SGD:
    return torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.01)


def norm_parameters(net: nn.Module) -> list[nn.Parameter]:
    return [p for module in net.modules() if isinstance(module, nn.BatchNorm2d) for p in module.parameters()]


def sam_on_by_hand(
    net: nn.Module, epochs: int = 2, *, every: int = 1, clip: float | None = None, autocast=None
) -> None:
    """SAM-ON with accumulation: gradients of all micro-batches at w, of all again at w + ε by a copy, clip, step."""
    optimizer = sgd(net.parameters())
    data = batches()
    for _ in range(epochs):
        for start in range(0, len(data), every):
            window = data[start : start + every]
            _gradients(net, window, every, autocast)
            there = copy.deepcopy(net)
            gradients = [p.grad for p in norm_parameters(net)]
            size = torch.cat([g.flatten() for g in gradients]).norm()
            with torch.no_grad():
                for p, g in zip(norm_parameters(there), gradients, strict=True):
                    p.add_(RHO * g / size)
            _gradients(there, window, every, autocast)
            for p, q in zip(net.parameters(), there.parameters(), strict=True):
                p.grad = q.grad
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(net.parameters(), clip)
            optimizer.step()


def _gradients(net: nn.Module, window, every: int, autocast) -> None:
    net.zero_grad()
    for batch in window:
        with nullcontext() if autocast is None else torch.autocast("cpu", autocast):
            loss = loss_of(net, batch)
        (loss / every).backward()


def state(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in net.state_dict().items()}


def assert_same_state(actual: nn.Module, expected: nn.Module, atol: float = 1e-6) -> None:
    torch.testing.assert_close(state(actual), state(expected), rtol=0, atol=atol)
