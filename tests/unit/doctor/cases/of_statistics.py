"""Running statistics that are not those of the data, and averages of models."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import normlab
import normlab.doctor
from tests.unit.doctor.cases.patients import Patient, faulty, images, plain, repair, resnet, sound, timm, train

# NL001: statistics of other data


@faulty("NL001")
def the_data_is_normalized_otherwise_than_in_training() -> Patient:
    return Patient(train(resnet(), 60), images(shift=4.0))


@sound("NL001")
def the_data_is_that_of_training() -> Patient:
    return Patient(train(resnet(), 60), images())


# NL101: initial values are left


@faulty("NL101")
def ten_updates_leave_a_third_of_the_initial_values() -> Patient:
    return Patient(train(resnet(), 10), images())


@faulty("NL101")
def a_checkpoint_without_buffers() -> Patient:
    trained = train(resnet(), 3)
    with torch.no_grad():
        for p in trained.parameters():
            p.add_(0.1 * torch.randn_like(p))
    model = resnet()
    model.load_state_dict(dict(trained.named_parameters()), strict=False)
    return Patient(model)


@sound("NL101")
def a_new_model_has_nothing_to_lag_behind() -> Patient:
    return Patient(resnet())


@sound("NL101")
def thirty_updates() -> Patient:
    return Patient(train(resnet(), 30))


@sound("NL101")
def repvgg_draws_its_scales_and_biases() -> Patient:
    return Patient(timm.create_model("repvgg_a0"))


@sound("NL101")
def dcgan_draws_its_scales() -> Patient:
    model = plain()
    nn.init.normal_(model[1].weight, 1.0, 0.02)
    return Patient(model)


@sound("NL101")
def pretrained_inception_with_momentum_zero() -> Patient:
    model = train(resnet(), 60)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    return Patient(model)


@sound("NL101")
def pretrained_without_counters_and_trained_further() -> Patient:
    model = resnet()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(0.1 if "conv" in name or "downsample" in name else 1.0)
    train(model, 60)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.num_batches_tracked.zero_()
    return Patient(train(model, 3))


@sound("NL101")
def recalibrated_with_ten_batches_of_which_none_is_initial() -> Patient:
    model = resnet()
    normlab.recalibrate(model, [images()] * 10)
    return Patient(model, images())


@sound("NL101")
def update_bn_with_five_batches_of_which_none_is_initial() -> Patient:
    model = resnet()
    torch.optim.swa_utils.update_bn([images()] * 5, model)
    return Patient(model, images())


@sound("NL101")
def averaged_and_update_bn_with_three_batches() -> Patient:
    average = AveragedModel(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    torch.optim.swa_utils.update_bn([images()] * 3, average)
    return Patient(average)


@faulty("NL101")
def momentum_zero_from_the_start() -> Patient:
    return Patient(train(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.0)), 3))


# NL201: eval mode by the batch


@faulty("NL201")
def track_running_stats_is_off() -> Patient:
    return Patient(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)), images())


@sound("NL201")
def instance_norm_has_no_running_statistics_and_needs_none() -> Patient:
    return Patient(nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4)), images())


# NL301: the flag set afterwards


@faulty("NL301")
def the_flag_is_set_after_construction() -> Patient:
    model = train(resnet(), 3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats = False
    return Patient(model)


@sound("NL301")
def the_flag_is_given_to_the_constructor() -> Patient:
    return Patient(nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.BatchNorm2d(3)))


@repair("NL301")
def _(patient: Patient) -> Patient:
    for module in patient.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats = True
    return patient


# NL003: poisoned statistics


@faulty("NL003")
def a_batch_of_nan_went_through() -> Patient:
    model = resnet().train()
    model(images() * float("nan"))
    return Patient(train(model, 50))


@sound("NL003")
def a_guarded_layer_saw_the_same_batch() -> Patient:
    model = resnet().train()
    normlab.convert(model, "batch(guard_nonfinite=True)")
    model(images() * float("nan"))
    return Patient(model)


# NL015: averages


def averaged(**options: Any) -> AveragedModel:
    """Weights that move far, one average every update."""
    model = resnet()
    average = AveragedModel(model, **options)
    for _ in range(40):
        train(model, 1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        average.update_parameters(model)
    return average


@faulty("NL015")
def swa_with_the_live_models_statistics() -> Patient:
    return Patient(averaged(), images(32))


@faulty("NL015")
def swa_with_averaged_statistics() -> Patient:
    return Patient(averaged(use_buffers=True), images(32))


@faulty("NL015")
def timms_average() -> Patient:
    from timm.utils import ModelEmaV2

    model = train(resnet(), 30)
    average = ModelEmaV2(model, decay=0.5)
    for _ in range(5):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        average.update(model)
    return Patient(average, images(32))


@sound("NL015")
def no_average() -> Patient:
    return Patient(train(resnet(), 60), images())
