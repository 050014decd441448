"""Arms with another normalizer: create_model → convert → prepare → groups → optimizer."""

import pytest
import torch

from normlab.layers import CONVS, NORMS, BatchNorm, GroupNorm, WeightNormConv2d
from normlab.recipes import InputNormalized
from normlab.screen.candidates import Affine
from normlab.seeding import Streams
from normlab.study.context import Context
from normlab.study.job import TrainJob
from normlab.study.train import train
from normlab.study.training import build_model, parameter_groups
from tests.unit.study.training.small import job
from tests.unit.study.training.test_trainer import same

WIDE = {"name": "resnet8(width=4)"}
ARGUMENTS = {
    "ilm": "(num_groups=2, key_group_size=2)",
    "group": "(num_groups=2)",
    "evo_s0": "(num_groups=2)",
    "lp": "(p=1)",
}


def built(arm, seed=1, **changes):
    spec = TrainJob.model_validate(job("new", arms={"new": arm}, model=WIDE, **changes))
    return spec, build_model(spec, Streams(seed), in_channels=1, num_classes=10)


@pytest.mark.parametrize("name", [*NORMS, *CONVS])
def test_every_normalizer_can_be_an_arm(tmp_path, name):
    arm = {"norm": name + ARGUMENTS.get(name, "")}
    result = train(job("new", arms={"new": arm}, model=WIDE, epochs=1, lr=1e-3), Streams(1), Context(tmp_path))
    assert 0 <= result["test_accuracy"] <= 100


def test_the_normalizer_of_an_arm_is_that_of_the_recipe_norm(tmp_path):
    arms = {
        "one": {"norm": "group(num_groups=2)"},
        "other": "norm(to='group(num_groups=2)', input_norm=True, init='fan_in')",
    }
    results = [train(job(arm, arms=arms, model=WIDE), Streams(1), Context(tmp_path)) for arm in arms]
    same(*results)


def test_the_input_stays_normalized_by_its_batch():
    _, model = built({"norm": "group(num_groups=2)"})
    assert isinstance(model, InputNormalized)
    assert isinstance(model[0], BatchNorm)
    assert sum(isinstance(module, GroupNorm) for module in model.modules()) == 9
    assert sum(isinstance(module, (BatchNorm, torch.nn.BatchNorm2d)) for module in model.modules()) == 1


@pytest.mark.parametrize("norm", ["none", "weight_norm"])
def test_convolutions_with_normalized_kernels_work_without_normalization_layers(norm):
    _, model = built({"norm": norm})
    assert sum(isinstance(module, Affine) for module in model.modules()) == 9
    assert sum(isinstance(module, WeightNormConv2d) for module in model.modules()) == (9 if norm != "none" else 0)


def test_arms_share_the_weights_that_they_have_in_common():
    plain, switch = (built({"norm": norm})[1] for norm in ("batch", "switch"))
    ours, theirs = dict(plain.named_parameters()), dict(switch.named_parameters())
    shared = [name for name in ours if name in theirs and ours[name].dim() > 1]
    assert len(shared) == 10
    assert all(torch.equal(ours[name], theirs[name]) for name in shared)


def test_random_initial_values_of_a_layer_come_from_the_seed():
    torch.manual_seed(3)
    one = built({"norm": "noisy"})[1].state_dict()
    torch.manual_seed(4)
    other = built({"norm": "noisy"})[1].state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_recipe_acts_on_the_new_layers():
    spec, model = built({"norm": "switch", "recipe": "revisited(scale=0.1, lr_divisor=100)"})
    scales = [module.weight for module in model.modules() if type(module).__name__ == "SwitchNorm"]
    assert all((scale == 0.1).all() for scale in scales)
    groups = {group["name"]: group for group in parameter_groups(spec, model)}
    assert {id(scale) for scale in scales} <= {id(p) for p in groups["norm_scale"]["params"]}
    assert groups["norm_scale"]["lr"] == pytest.approx(groups["weight"]["lr"] / 100)
