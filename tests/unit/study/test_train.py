import numpy as np
import pytest
import torch

from normlab.errors import SpecError
from normlab.seeding import Streams
from normlab.study.context import Context, Diverged
from normlab.study.data import DATASETS, load
from normlab.study.job import TrainSpec
from normlab.study.plan import plan
from normlab.study.reading import validate
from normlab.study.spec import StudySpec
from normlab.study.train import set_lr, train

SMALL = {
    "name": "small",
    "baseline": "base",
    "seeds": 2,
    "data": {"name": "digits(train=50, validation=50)"},
    "model": {"name": "resnet8(width=2)"},
    "train": {"epochs": 4, "batch_size": 20, "lr": 0.02},
    "arms": {"base": "baseline", "small": "revisited(scale=0.1)"},
}


def job(arm="base", **changes):
    spec = validate(StudySpec, {**SMALL, "train": {**SMALL["train"], **changes}})
    return next(run.job for run in plan(spec, "f") if run.arm == arm)


def test_trains_and_tests(tmp_path):
    context = Context(tmp_path)
    result = train(job(), Streams(1), context)
    assert len(result["correct"]) == 1797 - 100
    assert result["test_accuracy"] == pytest.approx(100 * result["correct"].mean())
    assert len(context.rows) == 4
    assert result["validation_accuracy"] == max(row["validation_accuracy"] for row in context.rows)
    best = [row["validation_accuracy"] for row in context.rows].index(result["validation_accuracy"])
    assert result["best_epoch"] == best + 1


def test_the_same_seed_gives_the_same_bits_whatever_the_global_generator_does(tmp_path):
    torch.manual_seed(1)
    first = train(job(), Streams(1), Context(tmp_path))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = train(job(), Streams(1), Context(tmp_path))
    torch.testing.assert_close(torch.get_rng_state(), before, rtol=0, atol=0)
    np.testing.assert_array_equal(first["correct"], second["correct"])
    assert first["train_loss"] == second["train_loss"]
    assert train(job(), Streams(2), Context(tmp_path))["train_loss"] != first["train_loss"]


def test_resumed_from_any_epoch_it_ends_in_the_same_bits(tmp_path):
    class Stop(Exception):
        pass

    class Stopping(Context):
        def checkpoint(self, state, *, done):
            super().checkpoint(state, done=done)
            raise Stop

    straight = train(job(), Streams(1), Context(tmp_path))
    for _ in range(4):  # one epoch at a time, each in a process of its own as far as the function can tell
        with pytest.raises(Stop):
            train(job(), Streams(1), Stopping(tmp_path, checkpoint_seconds=0))
    resumed = Context(tmp_path)
    result = train(job(), Streams(1), resumed)
    assert len(resumed.rows) == 4
    assert {k: v for k, v in result.items() if k != "correct"} == {k: v for k, v in straight.items() if k != "correct"}
    np.testing.assert_array_equal(result["correct"], straight["correct"])


def test_select_last_tests_the_last_epoch(tmp_path):
    assert train(job(select="last"), Streams(1), Context(tmp_path))["best_epoch"] == 4


def test_a_loss_that_is_not_finite_is_divergence_at_chance_level(tmp_path):
    with pytest.raises(Diverged, match="in epoch") as caught:
        train(job(lr=1e30), Streams(1), Context(tmp_path))
    assert caught.value.metrics["test_accuracy"] == 10
    assert caught.value.counted_as == "chance level, 10 %"


def test_a_constant_schedule_leaves_the_rate():
    spec = TrainSpec(epochs=3, batch_size=1, lr=0.1, schedule="constant")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    set_lr(optimizer, spec, 2)
    assert optimizer.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize("name", list(DATASETS))
def test_every_dataset_is_split_class_by_class_and_repeatably(name):
    data = load(name, 0)
    parts = [data.train, data.validation, data.test]
    for part in parts:
        assert part.images.dtype == np.uint8
        assert part.labels.dtype == np.int64
        assert len(part.images) == len(part.labels)
        assert set(part.labels) == set(range(data.num_classes))
    for part in parts[:2]:
        assert len(set(np.bincount(part.labels))) == 1
    load.cache_clear()
    again, other = load(name, 0), load(name, 1)
    np.testing.assert_array_equal(again.train.images, data.train.images)
    assert not np.array_equal(other.train.images, data.train.images)


def test_digits_is_the_whole_of_scikit_learns_disjointly():
    from sklearn.datasets import load_digits

    data = load("digits(train=300, validation=300)", 0)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [300, 300, 1197]
    together = np.concatenate([part.images.reshape(-1, 64) for part in (data.train, data.validation, data.test)])
    raw = load_digits().data.astype(np.uint8)
    assert sorted(map(bytes, together)) == sorted(map(bytes, raw))


@pytest.mark.parametrize(
    ("spec", "part"),
    [
        ("digits(train=55)", r"train=55 should be a multiple of 10, the number of classes"),
        ("digits(train=0)", "should be a multiple of 10"),
        ("digits(train=1700, validation=50)", "leaves no test example of the smallest class, which has 174"),
        ("digits(train='many')", "should be a valid integer"),
        ("digits(trian=10)", "did you mean 'train'"),
    ],
)
def test_a_split_that_cannot_be_made_is_named(spec, part):
    with pytest.raises(SpecError, match=part):
        load(spec, 0)
