"""What a report says was done."""

import pytest

from normlab.study.description import heading, methods
from normlab.study.job import ArmSpec
from normlab.study.reading import validate
from normlab.study.spec import StudySpec
from tests.unit.study.training.small import SMALL


def study(grid=None, **train):
    tree = {**SMALL, "train": {**SMALL["train"], **train}, "grid": grid or {}}
    tree["data"] = {**tree["data"], "limit": 40, "label_noise": 0.2}
    return validate(StudySpec, tree)


@pytest.mark.parametrize(
    ("train", "part"),
    [
        (
            {},
            "with SGD (learning rate 0.02, momentum 0.9, batch size 20, weight decay 0.0001 on weights only) and a ",
        ),
        ({}, "(split seed 0, at most 40 examples, 20% of the training labels replaced) for 4 epochs"),
        ({"optimizer": "sam(rho=0.5)"}, "with sam(rho=0.5) ("),
        ({"optimizer": "adamw"}, "with AdamW ("),
        ({"schedule": "constant"}, "a constant learning rate"),
        ({"schedule": "steps", "milestones": [1, 2]}, "a learning rate multiplied by 0.1 after 1, 2 epochs"),
        ({"augment": ["crop(padding=4)", "flip"]}, "Training images were augmented (crop(padding=4), flip)."),
        ({"label_smoothing": 0.1}, "Labels were smoothed by 0.1."),
        ({"clip_grad_norm": 1.0}, "Gradients were clipped to a norm of 1."),
        ({"select": "last"}, "The model of the last epoch was tested."),
        ({"ema": 0.99}, "average of the weights (decay 0.99), with running statistics computed anew"),
    ],
)
def test_every_option_is_in_the_methods_paragraph(train, part):
    assert part in " ".join(methods(study(**train)))


def test_what_the_grid_varies_is_not_said_to_be_fixed():
    varied = study(grid={"train.lr": [0.1, 0.01]})
    assert "learning rate 0.02" not in " ".join(methods(varied))
    assert heading(varied, {"train.lr": 0.1}) == ["digits(train=50, validation=50)", "resnet8(width=2)"]


@pytest.mark.parametrize(
    ("arm", "text"),
    [
        ({"recipe": "lr_only"}, "lr_only"),
        ({"norm": "switch"}, "baseline, norm = switch"),
        (
            {"norm": "switch", "optimizer": "sam(rho=0.5)", "train": {"lr": 0.05, "ema": 0.9}},
            "baseline, norm = switch, optimizer = sam(rho=0.5), train.lr = 0.05, train.ema = 0.9",
        ),
    ],
)
def test_an_arm_is_told_by_what_it_sets(arm, text):
    assert str(ArmSpec(**arm)) == text
