"""Checkpointing, precision, layout, compilers and export."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import normlab
import normlab.doctor
from tests.unit.doctor.cases.patients import Patient, faulty, images, plain, repair, resnet, sound, timm, train

# NL010: checkpointing


class Checkpointed(nn.Module):
    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.body = nn.Sequential(
            nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
        )
        self.reentrant = reentrant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(self.body, self.stem(x), use_reentrant=self.reentrant)


@faulty("NL010")
def torch_checkpoint() -> Patient:
    return Patient(Checkpointed(reentrant=False), images())


@faulty("NL010")
def torch_checkpoint_reentrant() -> Patient:
    return Patient(Checkpointed(reentrant=True), images())


@faulty("NL010")
def timms_switch() -> Patient:
    model = timm.create_model("test_resnet", num_classes=4)
    model.set_grad_checkpointing(True)
    return Patient(model, images(size=32))


@sound("NL010")
def without_checkpointing() -> Patient:
    return Patient(timm.create_model("test_resnet", num_classes=4), images(size=32))


@sound("NL010")
def one_layer_called_twice_in_a_forward_pass() -> Patient:
    norm = nn.BatchNorm2d(3)
    return Patient(nn.Sequential(norm, nn.Conv2d(3, 3, 1), norm), images())


# NL011: half precision


@faulty("NL011")
def a_model_made_bfloat16() -> Patient:
    return Patient(train(resnet(), 2).bfloat16())


@sound("NL011")
def a_model_in_float32() -> Patient:
    return Patient(resnet())


@sound("NL011")
def layer_norm_has_nothing_to_lose() -> Patient:
    return Patient(nn.Sequential(nn.LayerNorm(4)).bfloat16())


# NL017: layout


def channels_last(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), *layers).to(memory_format=torch.channels_last)


@faulty("NL017")
def instance_norm_turns_channels_last_back() -> Patient:
    return Patient(channels_last(nn.InstanceNorm2d(4)), images())


@faulty("NL017")
def instance_norm_in_three_dimensions() -> Patient:
    model = nn.Sequential(nn.Conv3d(1, 4, 3), nn.InstanceNorm3d(4)).to(memory_format=torch.channels_last_3d)
    return Patient(model, torch.randn(2, 1, 6, 6, 6))


@sound("NL017")
def batch_norm_keeps_the_layout() -> Patient:
    return Patient(channels_last(nn.BatchNorm2d(4), nn.GroupNorm(2, 4)), images())


@sound("NL017")
def instance_norm_in_the_usual_layout() -> Patient:
    return Patient(nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4)), images())


# NL018: momentum=None, compiled


def cumulative() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=None))


@faulty("NL018")
def compiled_by_torch_compile() -> Patient:
    return Patient(torch.compile(cumulative(), backend="eager"), images())


@faulty("NL018")
def compiled_in_place() -> Patient:
    model = cumulative()
    model[1].compile(backend="eager")
    return Patient(model)


@sound("NL018")
def not_compiled() -> Patient:
    return Patient(cumulative())


# NL019: exported in training mode


@faulty("NL019")
def exported_in_training_mode() -> Patient:
    return Patient(torch.export.export(plain().train(), (images(),)).module())


@faulty("NL019")
def decomposed() -> Patient:
    return Patient(torch.export.export(plain().train(), (images(),)).run_decompositions().module())


@sound("NL019")
def prepared_for_export() -> Patient:
    model = normlab.prepare_export(plain().eval())
    return Patient(torch.export.export(model, (images(),)).module())


@sound("NL019")
def exported_in_eval_mode() -> Patient:
    return Patient(torch.export.export(plain().eval(), (images(),)).module())


@repair("NL019")
def _(patient: Patient) -> Patient:
    return prepared_for_export()
