"""The replay of `opt_*` takes other shapes, seeds and arguments in the same format, and finds what is off."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from tests.golden import load
from tests.golden.record import write
from tests.golden.replay import replay, replay_file

NETWORK = "fc1 = Linear, norm1 = BatchNorm1d (default eps, momentum), ReLU, fc2 = Linear; loss = mean cross entropy"
BASE = {"kind": "SGD", "lr": 0.05, "momentum": 0.5, "weight_decay": 0.01}


def record(path, cls: str, ctor: dict, *, sizes=(4, 7, 5), n: int = 6, steps: int = 3, name: str = "") -> None:
    """A case whose numbers come from the formulas, written out by parameter name."""
    a, b, c = sizes
    net = nn.Sequential()
    for key, layer in {
        "fc1": nn.Linear(a, b),
        "norm1": nn.BatchNorm1d(b),
        "act": nn.ReLU(),
        "fc2": nn.Linear(b, c),
    }.items():
        net.add_module(key, layer)
    net.double()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p) / 3)
    x, t = torch.randn(n, a, dtype=torch.float64), torch.randint(c, (n,))
    base = dict(BASE)
    optimizer = getattr(torch.optim, base.pop("kind"))(net.parameters(), **base)
    arrays = {f"param0.{k}": p.detach().clone() for k, p in net.named_parameters()}
    arrays |= {f"buf0.{k}": v.clone() for k, v in net.named_buffers()}
    for k in range(steps):
        arrays |= one_step(net, optimizer, x, t, cls, ctor, f"s{k}", once="disable" in name)
    data = {"x": x.tolist(), "t": t.tolist()}
    meta = {"ctor": ctor, "base": BASE, "data": data, "model": NETWORK, "canonical": {"kind": "sam"}}
    write(path, meta | {"origin": {"kind": "authors", "cls": name or cls}}, arrays)


def one_step(net, optimizer, x, t, cls, ctor, key, *, once):
    found = gradients(net, x, t, f"{key}.loss", f"{key}.grad")
    found |= {f"{key}.buf_after_first.{k}": v.clone() for k, v in net.named_buffers()}
    named, kept = dict(net.named_parameters()), copy.deepcopy(dict(net.named_buffers()))
    before = {k: p.detach().clone() for k, p in named.items()}
    inside = [
        k for k in named if not ((ctor.get("only_norm") and "norm" not in k) or (ctor.get("no_norm") and "norm" in k))
    ]
    factors = {k: factor(k, named[k].detach(), cls, ctor) for k in inside}
    size = sum((factors[k] * named[k].grad).square().sum() for k in inside).sqrt()
    with torch.no_grad():
        for k in inside:
            g = named[k].grad
            step = factors[k] * g.sign() if ctor.get("p") == "infinity" else factors[k] ** 2 * g / size
            named[k].add_(ctor["rho"] * step)
    found |= {f"{key}.eps.{k}": p.detach() - before[k] for k, p in named.items()}
    found |= gradients(net, x, t, f"{key}.loss_adv", f"{key}.grad_adv")
    with torch.no_grad():
        for k, p in named.items():
            p.copy_(before[k])
        for k, v in net.named_buffers():
            if once and not k.endswith("tracked"):
                v.copy_(kept[k])
    optimizer.step()
    found |= {f"{key}.param_after.{k}": p.detach().clone() for k, p in named.items()}
    return found | {f"{key}.buf_after.{k}": v.clone() for k, v in net.named_buffers()}


def gradients(net, x, t, loss_key, key):
    for p in net.parameters():
        p.grad = None
    loss = nn.functional.cross_entropy(net(x), t)
    loss.backward()
    return {loss_key: loss.detach()} | {f"{key}.{k}": p.grad.clone() for k, p in net.named_parameters()}


def factor(name, p, cls, ctor):
    if cls == "SAM" and ctor.get("adaptive"):
        return p.abs()
    if not cls.startswith("ASAM") or not ("weight" in name or ctor.get("normalize_bias")):
        return 1.0
    eta = ctor.get("eta", 0.01)
    if ctor.get("elementwise", True):
        return p.abs() + eta
    return p.norm() * (1 + eta) if ctor.get("layerwise") else p


CASES = [
    ("SAM", {"rho": 0.2}),
    ("SAM", {"rho": 1.5, "adaptive": True}),
    ("ASAM", {"rho": 0.7}),
    ("SAM_ON", {"rho": 0.2, "no_norm": True}),
    ("SAM_ON", {"rho": 0.9, "only_norm": True}),
    ("ASAM_ON", {"rho": 0.6, "eta": 0.2, "normalize_bias": True, "p": "2"}),
    ("ASAM_ON", {"rho": 0.6, "eta": 0.2, "layerwise": True, "elementwise": False, "no_norm": True}),
    ("ASAM_ON", {"rho": 0.02, "p": "infinity", "only_norm": True}),
    ("ASAM_ON", {"rho": 0.02, "p": "infinity", "eta": 0.3, "layerwise": True, "elementwise": False}),
    ("ASAM_ON", {"rho": 0.3, "elementwise": False, "layerwise": False, "p": "2", "eta": 0.4}),
]


@pytest.mark.parametrize(("cls", "ctor"), CASES, ids=str)
def test_another_case_replays(cls, ctor, tmp_path):
    record(tmp_path / "any.npz", cls, ctor)
    assert str(replay_file(tmp_path / "any.npz")) == "matched   any"


def test_other_sizes_and_steps_replay_with_statistics_kept(tmp_path):
    record(tmp_path / "any.npz", "SAM", {"rho": 0.2}, sizes=(2, 3, 9), n=11, steps=1, name="SAM, disable_running_stats")
    result = replay_file(tmp_path / "any.npz")
    assert result.status == "matched"
    assert result.detail.startswith("batches are counted once in a step")


def test_neither_mode_with_p_infinity_is_the_error_that_was_decided(tmp_path):
    ctor = {"rho": 0.02, "p": "infinity", "elementwise": False, "layerwise": False}
    record(tmp_path / "any.npz", "ASAM_ON", ctor)
    assert replay_file(tmp_path / "any.npz").detail.startswith("an error, since theirs descends")


@pytest.mark.parametrize("array", ["s0.eps.norm1.weight", "s1.grad_adv.fc1.weight", "s1.buf_after.norm1.running_mean"])
def test_an_array_that_is_off_fails(array):
    case = load("opt_samon_asam_on_el2")
    case.arrays[array] = case.arrays[array] + 1e-3
    result = replay(case)
    assert result.status == "failed"
    assert array in result.detail or "more differ" in result.detail


def test_an_array_that_nobody_knows_is_named():
    case = load("opt_quadratic_sam")
    case.arrays["s0.other.weight"] = np.zeros(3)
    assert replay(case).detail == "not compared: s0.other.weight"
