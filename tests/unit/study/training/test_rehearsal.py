"""What would stop every run is found before the first one starts."""

import pytest

from normlab.errors import SpecError
from normlab.study.training import rehearse as rehearse_arms
from normlab.study.training import seconds_of
from normlab.study.training.step import Step
from tests.unit.study.training.small import SMALL, job

NETS = "tests/unit/study/training/nets.py"


def rehearse(jobs):
    rehearse_arms([(f"arm {number}", job) for number, job in enumerate(jobs)])


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        (
            {"model": {"name": f"{NETS}:of_two_outputs"}},
            r"makes \(2, 2\) of images 2x1x8x8; scores \(2, 10\) are wanted",
        ),
        ({"augment": ["crop(size=9)"]}, "does not fit images of 8x8"),
        ({"augment": ["crop"]}, "does nothing: add padding"),
        (
            {"augment": ["crop(size=2)"], "model": {"name": f"{NETS}:with_dropout"}},
            "cannot be trained on images 2x1x2x2",
        ),
        ({"data": {"name": "digits(train=55)"}}, "should be a multiple of 10"),
        (
            {"eta_min": 0.01, "arm": "small"},
            "eta_min = 0.01 is a floor for all groups, and norm_scale starts at 0.0002",
        ),
    ],
)
def test_it_is_named(changes, part):
    with pytest.raises(SpecError, match=rf"arms.arm 0: .*{part}"):
        rehearse([job(**changes)])


@pytest.mark.parametrize("norm", ["group(num_groups=3)", "frn"])
def test_a_normalizer_that_does_not_fit_the_network(norm):
    arms = {"new": {"norm": norm, "recipe": "revisited(scale=0.1)"}}
    with pytest.raises(SpecError, match=r"num_groups=3|no BatchNorm layer"):
        rehearse([job("new", arms=arms, model={"name": "resnet8(width=4)"})])


def test_a_last_batch_of_one_that_cannot_be_normalized():
    """`Expected more than 1 value per channel`, in the last batch of an epoch."""
    changes = {"model": {"name": f"{NETS}:at_one_pixel"}, "batch_size": 7}
    with pytest.raises(SpecError, match=r"images 1x1x8x8 \(the last batch: 50 examples in batches of 7\)"):
        rehearse([job(**changes)])
    rehearse([job(**{**changes, "batch_size": 8})])


def test_equal_networks_are_set_up_once(monkeypatch):
    built = []
    original = rehearse_arms.__globals__["build_model"]
    monkeypatch.setitem(
        rehearse_arms.__globals__, "build_model", lambda *a, **k: (built.append(1), original(*a, **k))[1]
    )
    rehearse([job(), job(epochs=7, lr=0.3), job("small"), job(precision="bf16", weight_decay=0.0)])
    assert len(built) == 2
    rehearse([job(data={**SMALL["data"], "label_noise": share}) for share in (0.0, 0.2, 0.4)])
    assert len(built) == 3


def test_no_network_is_set_up_when_the_time_is_over_and_that_is_told(monkeypatch, capsys):
    monkeypatch.setitem(rehearse_arms.__globals__, "LINE_EVERY", 0.0)
    assert rehearse_arms([("a", job()), ("b", job("small"))], seconds=0.0) == (1, 2)
    assert "networks set up: 1 of 2" in capsys.readouterr().err


@pytest.mark.parametrize("long", [0.0, 1e9])
def test_measuring_takes_few_images_of_a_large_batch_where_steps_are_long(long, monkeypatch):
    sizes = []
    step, names = Step.__call__, seconds_of.__globals__
    monkeypatch.setattr(Step, "__call__", lambda *a: (sizes.append(a[3]), step(*a))[1])
    monkeypatch.setitem(names, "LONG_STEP", long)
    names["_pace"].cache_clear()
    assert seconds_of(job(batch_size=50)) > 0
    assert max(sizes) == (50 if long else 8)


def test_what_a_run_takes_is_drawn_out_from_a_few_steps():
    short, long = seconds_of(job(epochs=1)), seconds_of(job(epochs=2000))
    assert 0 < short < 2
    assert long > 3 * short


def test_jobs_that_take_equally_long_are_measured_once(monkeypatch):
    made = []
    trainer = seconds_of.__globals__["Trainer"]
    monkeypatch.setitem(seconds_of.__globals__, "Trainer", lambda *a: (made.append(1), trainer(*a))[1])
    seconds_of.__globals__["_pace"].cache_clear()
    for other in (job(), job(lr=0.3, epochs=9), job("small"), job(schedule="steps", milestones=[2])):
        seconds_of(other)
    assert len(made) == 1
    for other in (job(optimizer="sam"), job(batch_size=10), job("r", arms={"r": "norm(to='switch')"})):
        seconds_of(other)
    assert len(made) == 4
