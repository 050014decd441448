"""`doctor` leaves a model, what trains it and all random numbers as they were, also where something raises."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

import normlab
from normlab.doctor import RULES
from normlab.layers import NORMS
from tests.unit.doctor import cases
from tests.unit.doctor.cases import Patient, images, loader, resnet


class Stateful(nn.Module):
    """Changes whatever a forward pass can change."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = spectral_norm(nn.Conv2d(3, 4, 3))
        self.norm = NORMS.create("sparse_switch", num_features=4)
        self.drop = nn.Dropout(0.5)
        self.rnn = nn.GRU(4, 4, batch_first=True)
        self.register_buffer("seen", torch.zeros(()))
        self.calls = 0

    def train(self, mode: bool = True):
        super().train(mode)
        self.conv.requires_grad_(not mode)  # as backbones with frozen stages do
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.last = x
        self.seen += 1
        with torch.no_grad():
            self.rnn.bias_hh_l0.add_(1.0)
        random.random()
        np.random.rand()
        y = self.drop(self.norm(self.conv(x)))
        return self.rnn(y.mean(3).transpose(1, 2))[0]


class Breaks(nn.Module):
    """Raises halfway."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.norm(x)
        raise RuntimeError("no way")


class InOneMode(nn.Module):
    """Raises in the other."""

    def __init__(self, mode: bool) -> None:
        super().__init__()
        self.net, self.mode = cases.train(resnet(), 40), mode

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.net(x)
        assert self.training == self.mode
        return y


class Exits(nn.Module):
    """Is interrupted halfway."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.norm(x)
        raise KeyboardInterrupt


def half_meta() -> Patient:
    return Patient(nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1, device="meta")), images())


def several() -> Patient:
    model = resnet()
    return Patient(model, None, {"optimizer": cases.all_parameters_decay().more["optimizer"], "loader": loader(17, 8)})


def frozen() -> Patient:
    model = resnet()
    normlab.freeze(model)
    return Patient(model, images())


PATIENTS = {
    "stateful": lambda: Patient(Stateful(), images(4)),
    "breaks": lambda: Patient(Breaks(), images(4)),
    "eval_only": lambda: Patient(InOneMode(False), images(4)),
    "training_only": lambda: Patient(InOneMode(True), images(4)),
    "half_meta": half_meta,
    "several": several,
    "compiled": cases.compiled_by_torch_compile,
    "checkpointed": cases.torch_checkpoint_reentrant,
    "averaged": cases.swa_with_the_live_models_statistics,
    "frozen": frozen,
    "no_running_stats": cases.track_running_stats_is_off,
    "nan": cases.a_batch_with_nan,
    "whitening": lambda: Patient(
        nn.Sequential(nn.Conv2d(3, 4, 3), normlab.create("whitening", num_features=4)), images()
    ),
}


def snapshot(model: nn.Module):
    """Everything that could change, by identity and by value."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        "objects": {name: id(value) for name, value in tensors.items()},
        "values": {name: value.detach().clone() for name, value in tensors.items()},
        "flags": {name: value.requires_grad for name, value in tensors.items()},
        "grads": {
            name: (id(value.grad), None if value.grad is None else value.grad.clone())
            for name, value in tensors.items()
        },
        "modules": {
            name: {
                key: (dict(value) if isinstance(value, dict) else value)
                for key, value in vars(module).items()
                if not isinstance(value, torch.Tensor)
            }
            for name, module in model.named_modules()
        },
        "random": (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()),
    }


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor) and a.device.type == "meta":
        return isinstance(b, torch.Tensor) and (a.device, a.shape) == (b.device, b.shape)
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(torch.nan_to_num(a, 7.0), torch.nan_to_num(b, 7.0))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a is b or bool(a == b)


@pytest.mark.parametrize(("name", "training"), [*((name, True) for name in PATIENTS), ("stateful", False)])
def test_nothing_is_changed(name, training):
    patient = PATIENTS[name]()
    patient.model.train(training)
    for parameter in patient.model.parameters():
        if parameter.is_leaf and parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    batch = patient.batch
    given = batch.clone() if isinstance(batch, torch.Tensor) else None
    before = snapshot(patient.model)
    patient.examined(None)
    after = snapshot(patient.model)
    for key in before:
        assert same(before[key], after[key]), key
    if given is not None:
        assert same(given, batch)


def test_an_interruption_leaves_no_trace_either():
    model = Exits().train()
    before = snapshot(model)
    with pytest.raises(KeyboardInterrupt):
        normlab.doctor(model, images())
    assert all(same(before[key], value) for key, value in snapshot(model).items())


def test_the_optimizer_and_its_hooks_are_not_touched():
    model = resnet()
    optimizer = cases.sgd(model.parameters())
    model(images()).sum().backward()
    optimizer.step()
    stepped = []
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(lambda _: stepped.append(1))  # optimizers that step in backward
    before = {key: value["momentum_buffer"].clone() for key, value in optimizer.state.items()}
    normlab.doctor(model, images(), optimizer=optimizer)
    assert not stepped
    assert all(torch.equal(optimizer.state[key]["momentum_buffer"], value) for key, value in before.items())


def test_a_loader_starts_its_epoch_as_it_would_have():
    def order(look: bool):
        generator = torch.Generator().manual_seed(3)
        data = loader(16, 8, shuffle=True, generator=generator)
        if look:
            normlab.doctor(resnet(), loader=data)
        return [batch[0] for batch in data]

    assert all(torch.equal(a, b) for a, b in zip(order(True), order(False), strict=True))


def test_it_runs_under_no_grad_and_inference_mode():
    patient = cases.torch_checkpoint()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert [found.id for found in patient.examined("NL010").findings] == ["NL010"]


@pytest.mark.parametrize("rule", ["NL003", "NL010"])
def test_a_rule_that_raises_is_a_finding_and_no_crash(monkeypatch, rule):
    def check(case):
        case.model.bn1.running_mean  # noqa: B018
        raise ZeroDivisionError("of the rule itself\nand more")

    monkeypatch.setitem(RULES, rule, replace(RULES[rule], check=check))
    model = resnet()
    before = snapshot(model)
    found = normlab.doctor(model, images())
    assert [(f.id, f.failed) for f in found.findings] == [(rule, True)]
    assert found.findings[0].text == "could not run: ZeroDivisionError: of the rule itself"
    assert found.exit_code == 2
    assert "1 could not run" in str(found)
    assert same(before, snapshot(model))
    assert len(found.clean) > 10, "the others were checked"
