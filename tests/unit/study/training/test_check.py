"""Names and values of an arm are checked before anything runs, and equal arms read the same."""

import pytest

from normlab.errors import SpecError
from normlab.study.training import read_job
from tests.unit.study.training.small import job


@pytest.mark.parametrize(
    ("arm", "train", "part"),
    [
        ({"norm": "swich"}, {}, "arms.new: unknown norm 'swich'; did you mean 'switch'"),
        ({"norm": "group(num_group=2)"}, {}, "did you mean 'num_groups'"),
        ({"norm": "group(num_groups='two')"}, {}, "num_groups='two' should be a valid integer"),
        ({"optimizer": "sgdd"}, {}, "arms.new: unknown optimizer 'sgdd'; did you mean 'sgd'"),
        ({"optimizer": "sam(roh=0.1)"}, {}, "did you mean 'rho'"),
        ({"optimizer": "sam(rho=-1.0)"}, {}, "rho=-1.0 should be a number, 0 or more"),
        ({"optimizer": "sam(scope='norms')"}, {}, "scope='norms' should be 'all', 'norm' or 'not_norm'"),
        ({"optimizer": "sam(p='inf')"}, {}, "p='inf' needs adaptive"),
        ({"optimizer": "sam(eta=0.1)"}, {}, "eta=0.1 needs adaptive"),
        ({"optimizer": "sam(base='sdg')"}, {}, "unknown optimizer 'sdg'; did you mean 'sgd'"),
        ({"optimizer": "sam(base='sam')"}, {}, "SAM takes a plain optimizer"),
        ({"optimizer": "sgd(nesterov=True)", "train": {"momentum": 0.0}}, {}, "Nesterov momentum requires"),
        ({"optimizer": "adamw(beta2=1.5)"}, {}, "Invalid beta"),
        ({"optimizer": "sgd(momentum=0.9)"}, {}, "unknown argument of optimizer 'sgd': 'momentum'"),
        ({"train": {"augment": ["filp"]}}, {}, "unknown augmentation 'filp'; did you mean 'flip'"),
        ({"train": {"augment": ["crop(pading=4)"]}}, {}, "did you mean 'padding'"),
        ({"train": {"augment": "flip"}}, {}, "train.augment: got 'flip' (str), should be a valid list"),
        ({"train": {"milestones": [2]}}, {}, "arms.new: train.milestones = [2] has no effect"),
        ({"train": {"precision": "fp16"}}, {}, "did you mean 'bf16'"),
        ({"train": {"ema": 1.0}}, {}, "train.ema: got 1.0 (float), should be less than 1"),
        ({"train": {"clip_grad_norm": 0.0}}, {}, "train.clip_grad_norm: got 0.0"),
        ({"train": {"label_smoothing": 1.0}}, {}, "train.label_smoothing: got 1.0"),
        ({"train": {"chanels_last": False}}, {}, "did you mean 'channels_last'"),
        ({"train": {"compile": "yes"}}, {}, "train.compile: got 'yes' (str)"),
        ({"norm": "switch", "recipe": "rbn"}, {}, "recipe 'rbn' puts 'rbn(center=False)' in place of norm = 'switch'"),
        ({"norm": "switch", "recipe": "norm(to='frn')"}, {}, "puts 'frn' in place of norm = 'switch'"),
        ({"norm": "switch", "recipe": "a1(scale=0.1)"}, {}, "puts 'batch' in place of norm = 'switch'"),
        ({"nrom": "switch"}, {}, "unknown key in [arms.new] 'nrom'; did you mean 'norm'"),
    ],
)
def test_what_is_wrong_with_an_arm_is_named_with_what_would_do(arm, train, part):
    with pytest.raises(SpecError) as caught:
        job("new", arms={"new": arm}, **train)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"optimizer": "sgd"}, {"optimizer": "sgd(nesterov=False)"}),
        ({"optimizer": "sam"}, {"optimizer": "sam( base = 'sgd(nesterov=False)', rho=0.05 )"}),
        ({"optimizer": "adamw"}, {"optimizer": "adamw(eps=1e-8)"}),
        ({"norm": "batch(eps=0.1, momentum=0.2)"}, {"norm": "batch(momentum=0.2, eps=0.1)"}),
        ({"norm": "switch", "recipe": "baseline"}, {"norm": "switch", "recipe": "baseline(norms='all')"}),
        ({"train": {"augment": ["flip"]}}, {"train": {"augment": ["flip()"]}}),
        ({"optimizer": "adamw"}, {"train": {"optimizer": "adamw"}}),
    ],
)
def test_equal_arms_read_the_same(one, other):
    with pytest.raises(SpecError, match="are the same"):
        job("one", arms={"one": one, "other": other})


def test_defaults_leave_no_trace_in_the_job_so_that_stored_runs_are_found():
    plain = job()
    assert set(plain) == {"data", "model", "train", "recipe"}
    assert "optimizer" not in plain["train"]
    assert job(optimizer="sgd(nesterov=False)", augment=[], compile=None, precision="auto") == plain
    sam = job("sam", arms={"sam": {"optimizer": "sam(rho=0.5)"}})["train"]["optimizer"]
    assert sam.startswith("sam(adaptive=None, base='sgd', eta=None")


def test_a_job_can_be_read_from_a_dict():
    spec = read_job({**job(), "norm": "switch"})
    assert (spec.norm, spec.train.epochs) == ("switch", 4)
    with pytest.raises(SpecError, match="mine: unknown key 'recip'"):
        read_job({**job(), "recip": "baseline"}, where="mine: ")
