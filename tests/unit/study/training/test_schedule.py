import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR

from normlab.errors import SpecError
from normlab.study.job import TrainSpec
from normlab.study.training import set_lr
from normlab.study.training.schedule import check_floor, check_schedule, lr_share


def spec(**changes):
    return TrainSpec(**{"epochs": 9, "batch_size": 1, "lr": 0.1, **changes})


def optimizer(*rates):
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate, "name": f"at {rate}"} for rate in rates]
    return torch.optim.SGD(groups, lr=0.1)


@pytest.mark.parametrize(
    ("changes", "theirs"),
    [
        ({"eta_min": 1e-3}, lambda o: CosineAnnealingLR(o, 9, 1e-3)),
        ({"schedule": "steps", "milestones": [2, 5], "step_factor": 0.2}, lambda o: MultiStepLR(o, [2, 5], 0.2)),
        ({"schedule": "constant"}, lambda o: MultiStepLR(o, [])),
    ],
    ids=["cosine", "steps", "constant"],
)
def test_rates_are_those_of_torchs_schedulers(changes, theirs):
    ours, other = optimizer(0.1, 0.001), optimizer(0.1, 0.001)
    scheduler = theirs(other)
    for epoch in range(9):
        set_lr(ours, spec(**changes), epoch)
        assert [g["lr"] for g in ours.param_groups] == pytest.approx([g["lr"] for g in other.param_groups], rel=1e-9)
        assert lr_share(ours) == pytest.approx(other.param_groups[0]["lr"] / 0.1, rel=1e-9)
        other.step()
        scheduler.step()


def test_any_epoch_can_be_the_first_one_asked_for():
    changes = spec(schedule="steps", milestones=[2, 5])
    straight, resumed = optimizer(0.1), optimizer(0.1)
    for epoch in range(8):
        set_lr(straight, changes, epoch)
    set_lr(resumed, changes, 7)
    assert straight.param_groups[0]["lr"] == resumed.param_groups[0]["lr"]


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"schedule": "steps"}, "needs milestones"),
        ({"schedule": "steps", "milestones": [5, 2]}, "should rise"),
        ({"schedule": "steps", "milestones": [2, 2]}, "should rise"),
        ({"schedule": "steps", "milestones": [2, 9]}, r"should be below train.epochs = 9"),
        ({"milestones": [2]}, r"train.milestones = \[2\] has no effect with schedule = 'cosine'"),
        ({"schedule": "constant", "step_factor": 0.5}, "write schedule = 'steps'"),
        ({"schedule": "constant", "eta_min": 0.01}, "write schedule = 'cosine'"),
    ],
)
def test_options_that_contradict_each_other_or_have_no_effect_are_refused(changes, part):
    with pytest.raises(SpecError, match=part):
        check_schedule(spec(**changes))


def test_a_floor_above_the_rate_of_the_scales_is_refused():
    """`eta_min` is one for all groups, and the scales learn at a hundredth."""
    with pytest.raises(SpecError, match=r"at 0.001 starts at 0.001: its rate would grow"):
        check_floor(optimizer(0.1, 0.001), spec(eta_min=0.002))
    check_floor(optimizer(0.1, 0.001), spec(eta_min=0.0001))
    check_floor(optimizer(0.1, 0.0), spec(eta_min=0.0001))
