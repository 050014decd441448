"""How norms were made: momentum, memory, names."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import normlab
import normlab.doctor
from tests.unit.doctor.cases.patients import Patient, faulty, plain, repair, sound, timm

# NL401: momentum of Keras


@faulty("NL401")
def momentum_as_in_keras() -> Patient:
    return Patient(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.99), nn.BatchNorm2d(4)))


@sound("NL401")
def momentum_of_timms_tensorflow_ports() -> Patient:
    return Patient(nn.Sequential(nn.BatchNorm2d(4, momentum=0.01), nn.BatchNorm2d(4, momentum=None)))


@sound("NL401")
def another_convention_that_is_said() -> Patient:
    return Patient(normlab.create("batch(momentum=0.99, momentum_convention='keep')", num_features=4))


@repair("NL401")
def _(patient: Patient) -> Patient:
    patient.model[1].momentum = 1 - patient.model[1].momentum
    return patient


# NL027: never filled


@faulty("NL027")
def to_empty_and_nothing_else() -> Patient:
    with torch.device("meta"):
        model = plain()
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        model[1].running_var.fill_(-3e17)  # what was found there once
    return Patient(model)


@faulty("NL027")
def still_on_the_meta_device() -> Patient:
    with torch.device("meta"):
        return Patient(plain(), "2x3x8x8")


@faulty("NL027")
def to_empty_found_zeros() -> Patient:
    patient = to_empty_and_nothing_else()
    for tensor in patient.model.state_dict().values():
        tensor.zero_()
    return patient


@faulty("NL027")
def to_empty_found_addresses() -> Patient:
    patient = to_empty_and_nothing_else()
    patient.model[1].running_var.fill_(1.0)
    patient.model[1].num_batches_tracked.fill_(140268181331264)
    return patient


@sound("NL027")
def filled() -> Patient:
    return Patient(plain())


@repair("NL027")
def _(patient: Patient) -> Patient:
    patient.model[1].reset_parameters()
    return patient


# NL028: transformers


@sound("NL028")
def other_names() -> Patient:
    return Patient(pretrained("scaler"))


@sound("NL028")
def timms_convnext_is_not_loaded_by_transformers() -> Patient:
    return Patient(timm.create_model("test_convnext"))


class WithGamma(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(2)), nn.Parameter(torch.zeros(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, (2,), self.gamma, self.beta)


def pretrained(name: str) -> nn.Module:
    from transformers import PretrainedConfig, PreTrainedModel

    class Network(PreTrainedModel):
        config_class = PretrainedConfig

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.add_module(name, WithGamma())
            self.post_init()

        def _init_weights(self, module: nn.Module) -> None: ...

    return Network(PretrainedConfig())
