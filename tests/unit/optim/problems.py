"""A small network and its batch, and SAM written out by hand."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from normlab.optim import SAM


def network(norm=nn.BatchNorm2d) -> nn.Sequential:
    """Convolution, a norm, ReLU, twice; a linear layer. Parameters are generic, some of them negative."""
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3), norm(4), nn.ReLU(), nn.Conv2d(4, 6, 3, bias=False), norm(6), nn.ReLU(), nn.Flatten(),
        nn.Linear(6 * 2 * 2, 3),
    ).double()  # fmt: skip
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p) / 4)
    return net


def batch(n: int = 8) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 2, 6, 6, dtype=torch.float64), torch.arange(n) % 3


def sgd(net: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)


def closure_of(sam: SAM, net, x, t):
    def closure() -> Tensor:
        sam.zero_grad()
        loss = nn.functional.cross_entropy(net(x), t)
        loss.backward()
        return loss

    return closure


def state(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def assert_same_state(actual, expected) -> None:
    torch.testing.assert_close(state(actual), state(expected), rtol=1e-12, atol=1e-12)


def by_hand(net, optimizer, x, t, *, rho: float, inside, factor) -> None:
    """One step as in the papers: gradients, ε, gradients at w + ε by a copy of the network, step.

    Args:
        inside: is the parameter of this name perturbed?
        factor: T of a parameter, from its name and value.
    """
    there = copy.deepcopy(net)
    optimizer.zero_grad()
    nn.functional.cross_entropy(net(x), t).backward()
    named = {name: p for name, p in net.named_parameters() if inside(name)}
    t_of = {name: factor(name, p.detach()) for name, p in named.items()}
    size = sum((t_of[name] * p.grad).square().sum() for name, p in named.items()).sqrt()
    with torch.no_grad():
        for name, p in there.named_parameters():
            if inside(name):
                p.add_(rho * t_of[name] ** 2 * named[name].grad / size)
    nn.functional.cross_entropy(there(x), t).backward()
    for p, q in zip(net.parameters(), there.parameters(), strict=True):
        p.grad = q.grad
    optimizer.step()
