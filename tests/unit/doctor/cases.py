"""For each rule that one process can check: a model with the fault as users met it, its repair, and a sound model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

import normlab
import normlab.doctor
from normlab.optim import SAM
from normlab.study.models import create_model, import_timm

timm = import_timm()


@dataclass
class Patient:
    """A model, and what else `doctor` is given."""

    model: nn.Module
    batch: Any = None
    more: dict[str, Any] = field(default_factory=dict)

    def examined(self, rule: str | None):
        return normlab.doctor(self.model, self.batch, select=rule, **self.more)


Make = Callable[[], Patient]
FAULTY: dict[str, dict[str, Make]] = {}
SOUND: dict[str, dict[str, Make]] = {}
REPAIR: dict[str, Callable[[Patient], Patient]] = {}
"""The fix that the rule names, on its first faulty patient."""


def _into(place: dict[str, dict[str, Make]], rule: str) -> Callable[[Make], Make]:
    def add(make: Make) -> Make:
        place.setdefault(rule, {})[make.__name__] = make
        return make

    return add


def faulty(rule: str) -> Callable[[Make], Make]:
    return _into(FAULTY, rule)


def sound(rule: str) -> Callable[[Make], Make]:
    return _into(SOUND, rule)


def repair(rule: str):
    def add(function):
        REPAIR[rule] = function
        return function

    return add


def resnet(**options: Any) -> nn.Module:
    return create_model("resnet8(width=8)", in_channels=3, num_classes=4)


def images(n: int = 8, size: int = 12, shift: float = 0.0) -> torch.Tensor:
    """Like images: each example has a brightness of its own."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(n, 3, size, size, generator=generator)
    return noise + torch.randn(n, 3, 1, 1, generator=generator) + shift


def train(model: nn.Module, updates: int, shift: float = 0.0) -> nn.Module:
    """Forward passes in training mode: what moves running statistics."""
    model.train()
    with torch.no_grad():
        for _ in range(updates):
            model(images(shift=shift))
    return model


def loader(examples: int, size: int, **options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(images(examples)), batch_size=size, **options)


# NL001: statistics of other data


@faulty("NL001")
def the_data_is_normalized_otherwise_than_in_training() -> Patient:
    return Patient(train(resnet(), 60), images(shift=4.0))


@sound("NL001")
def the_data_is_that_of_training() -> Patient:
    return Patient(train(resnet(), 60), images())


@repair("NL001")
def _(patient: Patient) -> Patient:
    normlab.recalibrate(patient.model, [patient.batch])
    return patient


# NL101: initial values are left


@faulty("NL101")
def ten_updates_leave_a_third_of_the_initial_values() -> Patient:
    return Patient(train(resnet(), 10))


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


@repair("NL101")
def _(patient: Patient) -> Patient:
    normlab.recalibrate(patient.model, [images() for _ in range(30)])
    return patient


# NL201: eval mode by the batch


@faulty("NL201")
def track_running_stats_is_off() -> Patient:
    return Patient(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)), images())


@sound("NL201")
def instance_norm_has_no_running_statistics_and_needs_none() -> Patient:
    return Patient(nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4)), images())


@repair("NL201")
def _(patient: Patient) -> Patient:
    normlab.convert(patient.model, "batch(track_running_stats=True)")
    return patient


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


@repair("NL002")
def _(patient: Patient) -> Patient:
    normlab.convert(patient.model, "batch(batch1='running')")
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


@repair("NL003")
def _(patient: Patient) -> Patient:
    normlab.recalibrate(patient.model, [images()])
    return patient


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


@sound("NL103")
def all_is_finite() -> Patient:
    return Patient(resnet(), images())


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


@repair("NL004")
def _(patient: Patient) -> Patient:
    normlab.convert(patient.model, "group(lower=True)", sample=patient.batch)
    return patient


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


@repair("NL005")
def _(patient: Patient) -> Patient:
    normlab.convert(patient.model, "layer", where=["1"])
    return patient


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


# NL106: no channels


@faulty("NL106")
def a_lazy_layer_converted() -> Patient:
    return Patient(nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d())))


@sound("NL106")
def a_lazy_layer() -> Patient:
    return Patient(nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d()))


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


@repair("NL008")
def _(patient: Patient) -> Patient:
    normlab.freeze(patient.model)
    return patient


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


@repair("NL108")
def _(patient: Patient) -> Patient:
    normlab.freeze(patient.model, affine=False)
    return patient


# NL009, NL109, NL209: optimizers


def sgd(parameters: Any, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, **{"lr": 0.1, "momentum": 0.9, **options})


def by_recipe(model: nn.Module, spec: str = "baseline") -> torch.optim.Optimizer:
    return sgd(normlab.recipe(spec).param_groups(model, lr=0.1, weight_decay=1e-4))


@faulty("NL009")
def all_parameters_decay() -> Patient:
    model = resnet()
    return Patient(model, None, {"optimizer": sgd(model.parameters(), weight_decay=1e-4)})


@sound("NL009")
def nothing_decays() -> Patient:
    model = resnet()
    return Patient(model, None, {"optimizer": sgd(model.parameters())})


@repair("NL009")
def _(patient: Patient) -> Patient:
    return Patient(patient.model, None, {"optimizer": by_recipe(patient.model)})


@faulty("NL109")
def groups_by_shape() -> Patient:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Flatten(), nn.Linear(16, 1))
    flat = [p for p in model.parameters() if p.squeeze().dim() <= 1]
    rest = [p for p in model.parameters() if p.squeeze().dim() > 1]
    groups = [{"params": rest, "weight_decay": 1e-4}, {"params": flat, "weight_decay": 0.0}]
    return Patient(model, None, {"optimizer": sgd(groups)})


@sound("NL109")
def timms_groups() -> Patient:
    from timm.optim import param_groups_weight_decay

    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1)
    return Patient(model, None, {"optimizer": sgd(param_groups_weight_decay(model, 1e-4))})


@sound("NL109")
def no_decay_at_all() -> Patient:
    return nothing_decays()


@repair("NL109")
def _(patient: Patient) -> Patient:
    return Patient(patient.model, None, {"optimizer": by_recipe(patient.model)})


@faulty("NL209")
def the_optimizer_was_made_before_surgery() -> Patient:
    model = resnet()
    optimizer = sgd(model.parameters())
    model.bn1 = nn.GroupNorm(2, 8)
    return Patient(model, None, {"optimizer": optimizer})


@faulty("NL209")
def a_list_of_types_forgets_the_norms() -> Patient:
    model = resnet()
    wanted = [p for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear)) for p in m.parameters()]
    return Patient(model, None, {"optimizer": sgd(wanted)})


@sound("NL209")
def the_head_alone_is_trained() -> Patient:
    model = nn.Sequential(resnet(), nn.Linear(4, 2))
    return Patient(model, None, {"optimizer": sgd(model[1].parameters())})


@sound("NL209")
def convert_told_the_optimizer() -> Patient:
    model = resnet()
    optimizer = sgd(model.parameters())
    normlab.convert(model, "iebn", optimizer=optimizer)
    return Patient(model, None, {"optimizer": optimizer})


@repair("NL209")
def _(patient: Patient) -> Patient:
    return Patient(patient.model, None, {"optimizer": sgd(patient.model.parameters())})


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


@repair("NL010")
def _(patient: Patient) -> Patient:
    normlab.convert(patient.model, "batch")
    return patient


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


@repair("NL011")
def _(patient: Patient) -> Patient:
    normlab.convert(patient.model, "batch")
    return patient


# NL014: SAM


class DavdaSAM(torch.optim.Optimizer):
    """davda54/sam, as far as a doctor sees it."""

    def __init__(self, params: Any, base: type[torch.optim.Optimizer], **options: Any) -> None:
        super().__init__(params, dict(rho=0.05, **options))
        self.base_optimizer = base(self.param_groups, **options)
        self.param_groups = self.base_optimizer.param_groups

    def first_step(self, zero_grad: bool = False) -> None: ...

    def second_step(self, zero_grad: bool = False) -> None: ...


@faulty("NL014")
def sam_as_most_use_it() -> Patient:
    model = resnet()
    return Patient(model, None, {"optimizer": DavdaSAM(model.parameters(), torch.optim.SGD, lr=0.1)})


@faulty("NL014")
def normlabs_when_told_so() -> Patient:
    model = resnet()
    return Patient(model, None, {"optimizer": SAM(sgd(model.parameters()), model, update_stats="twice")})


@sound("NL014")
def sam_without_statistics() -> Patient:
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    return Patient(model, None, {"optimizer": DavdaSAM(model.parameters(), torch.optim.SGD, lr=0.1)})


@repair("NL014")
def _(patient: Patient) -> Patient:
    return Patient(patient.model, None, {"optimizer": SAM(sgd(patient.model.parameters()), patient.model)})


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


@repair("NL015")
def _(patient: Patient) -> Patient:
    normlab.recalibrate(patient.model, [patient.batch])
    return patient


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


@repair("NL017")
def _(patient: Patient) -> Patient:
    normlab.convert(patient.model, "instance")
    return patient


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


@repair("NL018")
def _(patient: Patient) -> Patient:
    normlab.convert(patient.model, "batch")
    return patient


# NL019: exported in training mode


def plain() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


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


# NL024: MPS; there is none here, so the device is only said to be one


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


@sound("NL027")
def filled() -> Patient:
    return Patient(plain())


@repair("NL027")
def _(patient: Patient) -> Patient:
    patient.model[1].reset_parameters()
    return patient


# NL028: transformers


@faulty("NL028")
def layer_norm_with_gamma_and_beta() -> Patient:
    return Patient(pretrained("LayerNorm"))


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


# NL030, NL031: schedulers


@faulty("NL030")
def one_cycle_with_one_rate() -> Patient:
    model = resnet()
    optimizer = by_recipe(model, "revisited")
    return Patient(model, None, {"optimizer": optimizer, "scheduler": OneCycleLR(optimizer, 0.1, total_steps=50)})


@sound("NL030")
def one_cycle_with_the_recipes_rates() -> Patient:
    model, recipe = resnet(), normlab.recipe("revisited")
    optimizer = by_recipe(model, "revisited")
    scheduler = OneCycleLR(optimizer, recipe.max_lr(optimizer, 0.1), total_steps=50)
    return Patient(model, None, {"optimizer": optimizer, "scheduler": scheduler})


@repair("NL030")
def _(patient: Patient) -> Patient:
    return one_cycle_with_the_recipes_rates()


@faulty("NL031")
def the_floor_is_the_rate_of_the_scales() -> Patient:
    model = resnet()
    optimizer = by_recipe(model, "revisited")
    scheduler = CosineAnnealingLR(optimizer, 50, eta_min=1e-3)
    return Patient(model, None, {"optimizer": optimizer, "scheduler": scheduler})


@faulty("NL031")
def groups_of_ones_own() -> Patient:
    model = resnet()
    groups = [{"params": model.fc.parameters()}, {"params": model.bn1.parameters(), "lr": 1e-4}]
    optimizer = sgd(groups)
    return Patient(model, None, {"optimizer": optimizer, "scheduler": CosineAnnealingLR(optimizer, 50, eta_min=1e-3)})


@sound("NL031")
def a_floor_far_below() -> Patient:
    model = resnet()
    optimizer = by_recipe(model, "revisited")
    return Patient(model, None, {"optimizer": optimizer, "scheduler": CosineAnnealingLR(optimizer, 50, eta_min=1e-8)})


# NL032: dead scales


@faulty("NL032")
def zero_init_last_and_frozen() -> Patient:
    model = timm.create_model("resnet18")
    normlab.freeze(model)
    return Patient(model)


@faulty("NL032")
def zero_init_last_and_not_in_the_optimizer() -> Patient:
    model = timm.create_model("resnet18")
    wanted = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d)]
    return Patient(model, None, {"optimizer": sgd(wanted)})


@sound("NL032")
def zero_init_last_and_trained() -> Patient:
    model = timm.create_model("resnet18")
    return Patient(model, None, {"optimizer": sgd(model.parameters())})


@repair("NL032")
def _(patient: Patient) -> Patient:
    normlab.unfreeze(patient.model)
    return patient
