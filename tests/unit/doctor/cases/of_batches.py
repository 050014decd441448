"""Batches that are too small, or not finite."""

from __future__ import annotations

import torch
from torch import nn

import normlab
import normlab.doctor
from tests.unit.doctor.cases.patients import Patient, faulty, images, loader, repair, resnet, sound

# NL002: one value per channel


@faulty("NL002")
def the_last_batch_has_one_example() -> Patient:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4))
    return Patient(model, None, {"loader": loader(17, 8)})


@faulty("NL002")
def aspp_pools_to_one_position_at_batch_size_one() -> Patient:
    from torchvision.models.segmentation.deeplabv3 import ASPP

    return Patient(ASPP(3, [2, 3], out_channels=4), images(1))


@sound("NL002")
def the_last_batch_is_dropped() -> Patient:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4))
    return Patient(model, None, {"loader": loader(17, 8, drop_last=True)})


@sound("NL002")
def one_example_with_many_positions() -> Patient:
    return Patient(resnet(), None, {"loader": loader(17, 8)})


# NL103: NaN on the way


@faulty("NL103")
def a_batch_with_nan() -> Patient:
    batch = images()
    batch[3, 1, 2, 2] = float("nan")
    return Patient(resnet(), batch)


@faulty("NL103")
def activations_overflow_in_half_precision() -> Patient:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).half()
    with torch.no_grad():
        model[0].weight.fill_(60000.0)
    return Patient(model, images().half())


@faulty("NL103")
def squares_overflow_and_the_variance_is_infinite() -> Patient:
    return Patient(resnet(), images() * 1e30)


@sound("NL103")
def all_is_finite() -> Patient:
    return Patient(resnet(), images())


@repair("NL103")
def _(patient: Patient) -> Patient:
    return Patient(patient.model, patient.batch.nan_to_num())


# NL004 and NL029: small batches


@faulty("NL004")
def detection_with_two_images_per_gpu() -> Patient:
    return Patient(resnet(), images(2))


@faulty("NL004")
def the_loader_says_the_batch_size() -> Patient:
    return Patient(resnet(), images(8), {"loader": loader(8, 2)})


@sound("NL004")
def eight_images() -> Patient:
    return Patient(resnet(), images(8))


@sound("NL004")
def a_frozen_network_does_not_care() -> Patient:
    model = resnet()
    normlab.freeze(model)
    return Patient(model, images(2))


@faulty("NL029")
def two_values_are_plus_and_minus_one() -> Patient:
    return Patient(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), torch.randn(2, 3))


@sound("NL029")
def eight_values() -> Patient:
    return Patient(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), torch.randn(8, 3))


# NL005: groups of one value


@faulty("NL005")
def group_norm_in_the_place_of_batch_norm_on_vectors() -> Patient:
    return Patient(nn.Sequential(nn.Linear(3, 4), nn.GroupNorm(4, 4)), torch.randn(8, 3))


@faulty("NL005")
def thirty_two_groups_of_two_channels_on_one_position() -> Patient:
    return Patient(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 64, 1), nn.GroupNorm(32, 64)), images())


@faulty("NL005")
def instance_norm_on_one_position_raises() -> Patient:
    return Patient(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.InstanceNorm2d(3)), images())


@sound("NL005")
def groups_of_many_values() -> Patient:
    return Patient(nn.Sequential(nn.Conv2d(3, 64, 3), nn.GroupNorm(32, 64), nn.InstanceNorm2d(64)), images())


@sound("NL005")
def one_example_without_a_batch_dimension() -> Patient:
    return Patient(nn.Sequential(nn.InstanceNorm1d(3), nn.Conv1d(3, 4, 1)), torch.randn(3, 16))
