"""Parameters in the wrong group, rates that schedulers overrule."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

import normlab
import normlab.doctor
from normlab.optim import SAM
from tests.unit.doctor.cases.patients import Patient, faulty, repair, resnet, sound, timm

# NL009, NL109, NL209: optimizers


def sgd(parameters: Any, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, **{"lr": 0.1, "momentum": 0.9, **options})


def by_recipe(model: nn.Module, spec: str = "baseline") -> torch.optim.Optimizer:
    return sgd(normlab.recipe(spec).param_groups(model, lr=0.1, weight_decay=1e-4))


@faulty("NL009")
def all_parameters_decay() -> Patient:
    model = resnet()
    return Patient(model, None, {"optimizer": sgd(model.parameters(), weight_decay=1e-4)})


@faulty("NL009")
def all_parameters_decay_in_adamw() -> Patient:
    model = resnet()
    return Patient(model, None, {"optimizer": torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.05)})


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


@sound("NL109")
def mingpts_embeddings_do_not_decay() -> Patient:
    model = nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 3))
    rest = [model[0].weight, *model[1].parameters(), model[2].bias]
    groups = [{"params": [model[2].weight], "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    return Patient(model, None, {"optimizer": sgd(groups)})


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
def a_linear_probe_of_a_network_whose_first_norm_is_beside_its_head() -> Patient:
    model = timm.create_model("resnet18")
    return Patient(model, None, {"optimizer": sgd(model.fc.parameters())})


@sound("NL209")
def a_linear_probe_of_a_transformer_whose_last_norm_is_beside_its_head() -> Patient:
    model = timm.create_model("test_vit")
    return Patient(model, None, {"optimizer": sgd(model.head.parameters())})


@faulty("NL209")
def a_transformer_without_its_norms() -> Patient:
    model = timm.create_model("test_vit")
    wanted = [p for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear)) for p in m.parameters()]
    return Patient(model, None, {"optimizer": sgd(wanted)})


@sound("NL209")
def convert_told_the_optimizer() -> Patient:
    model = resnet()
    optimizer = sgd(model.parameters())
    normlab.convert(model, "iebn", optimizer=optimizer)
    return Patient(model, None, {"optimizer": optimizer})


@repair("NL209")
def _(patient: Patient) -> Patient:
    return Patient(patient.model, None, {"optimizer": sgd(patient.model.parameters())})


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


@repair("NL031")
def _(patient: Patient) -> Patient:
    scheduler = CosineAnnealingLR(patient.more["optimizer"], 50, eta_min=0)
    return Patient(patient.model, None, {**patient.more, "scheduler": scheduler})


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
