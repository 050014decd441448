"""Norms that were replaced, and norms that were frozen."""

from __future__ import annotations

from torch import nn

import normlab
import normlab.doctor
from tests.unit.doctor.cases.patients import Patient, faulty, images, repair, resnet, sound, timm

# NL006: activations lost


@faulty("NL006")
def sync_batch_norm_drops_timms_activations() -> Patient:
    model = timm.create_model("mobilenetv2_035", num_classes=4)
    return Patient(nn.SyncBatchNorm.convert_sync_batchnorm(model))


def by_hand(model: nn.Module) -> nn.Module:
    """What people write to have GroupNorm instead of BatchNorm."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.GroupNorm(1, child.num_features))
    return model


@faulty("NL006")
def every_batch_norm_replaced_by_hand() -> Patient:
    return Patient(by_hand(timm.create_model("test_efficientnet")))


@faulty("NL006")
def densenet_names_what_makes_them_otherwise() -> Patient:
    from timm.models.densenet import DenseLayer

    return Patient(by_hand(nn.Sequential(DenseLayer(4, 2, bn_size=2))))


@sound("NL006")
def timms_own_conversion() -> Patient:
    from timm.layers import convert_sync_batchnorm

    return Patient(convert_sync_batchnorm(timm.create_model("test_efficientnet")))


@sound("NL006")
def normlabs_conversion() -> Patient:
    model = timm.create_model("test_efficientnet")
    normlab.convert(model, nn.SyncBatchNorm)
    return Patient(model)


@sound("NL006")
def a_network_with_activations_of_its_own() -> Patient:
    return Patient(nn.SyncBatchNorm.convert_sync_batchnorm(timm.create_model("resnet18")))


@repair("NL006")
def _(patient: Patient) -> Patient:
    return normlabs_conversion()


# NL106: no channels


@faulty("NL106")
def a_lazy_layer_converted() -> Patient:
    return Patient(nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d())))


@sound("NL106")
def a_lazy_layer() -> Patient:
    return Patient(nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d()))


@repair("NL106")
def _(patient: Patient) -> Patient:
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d())
    model(images())
    normlab.convert(model, "batch(sync=True)")
    return Patient(model)


# NL008: half frozen


@faulty("NL008")
def requires_grad_is_off_for_the_backbone() -> Patient:
    model = resnet()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("fc"))
    return Patient(model, images(shift=2.0))


@faulty("NL008")
def no_batch_is_needed_to_see_it() -> Patient:
    return Patient(requires_grad_is_off_for_the_backbone().model)


@faulty("NL008")
def a_frozen_backbone_under_a_head_with_norms() -> Patient:
    head = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)).requires_grad_(False)
    return Patient(nn.ModuleDict({"backbone": backbone, "head": head}))


@faulty("NL008")
def the_first_layers_are_frozen() -> Patient:
    model = nn.Sequential(*(nn.BatchNorm2d(3) for _ in range(4)))
    model[:2].requires_grad_(False)
    return Patient(model, images())


@sound("NL008")
def the_model_keeps_its_norms_in_eval_mode() -> Patient:
    class Frozen(nn.Sequential):
        def train(self, mode: bool = True):
            super().train(mode)
            self[1].eval()
            return self

    model = Frozen(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).requires_grad_(False)
    return Patient(nn.Sequential(model, nn.Conv2d(4, 2, 1)).train())


@sound("NL008")
def a_teacher_that_is_never_trained() -> Patient:
    return Patient(resnet().eval().requires_grad_(False))


@sound("NL008")
def all_is_trained() -> Patient:
    return Patient(resnet())


# NL108: frozen until the next epoch


@faulty("NL108")
def norms_put_into_eval_mode_by_hand() -> Patient:
    model = resnet().train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return Patient(model)


@sound("NL108")
def the_whole_model_in_eval_mode() -> Patient:
    return Patient(resnet().eval())
