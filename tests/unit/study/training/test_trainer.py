import math

import numpy as np
import pytest
import torch

from normlab.seeding import Streams
from normlab.study.context import Context, Diverged
from normlab.study.job import METRICS, TrainJob
from normlab.study.train import train
from normlab.study.training import Trainer, rehearse
from tests.unit.study.training.small import job

DROPOUT = {"name": "tests/unit/study/training/nets.py:with_dropout"}
UNVALIDATED = {"name": "digits(train=50, validation=0)"}
OPTIONS = {
    "plain": {},
    "augmented": {"augment": ["crop(padding=1)", "flip"]},
    "sam": {"optimizer": "sam(rho=0.5, scope='norm')"},
    "adamw": {"optimizer": "adamw(beta2=0.99)"},
    "ema": {"ema": 0.9},
    "bf16": {"precision": "bf16"},
    "clipped": {"clip_grad_norm": 0.1, "label_smoothing": 0.1, "optimizer": "sam(adaptive='elementwise')"},
    "steps": {"schedule": "steps", "milestones": [2], "select": "last", "channels_last": False},
}


class Stop(Exception):
    pass


class Stopping(Context):
    def checkpoint(self, state, *, done):
        super().checkpoint(state, done=done)
        raise Stop


def same(first, second):
    np.testing.assert_array_equal(first["correct"], second["correct"])
    assert {k: v for k, v in first.items() if k != "correct"} == {k: v for k, v in second.items() if k != "correct"}


def curves(context):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in context.rows]


def test_trains_and_tests(tmp_path):
    context = Context(tmp_path)
    result = train(job(), Streams(1), context)
    assert set(result) == {*METRICS, "correct"}
    assert len(result["correct"]) == 1797 - 100
    assert result["test_accuracy"] == pytest.approx(100 * result["correct"].mean())
    assert len(context.rows) == 4
    assert result["validation_accuracy"] == max(row["validation_accuracy"] for row in context.rows)
    best = [row["validation_accuracy"] for row in context.rows].index(result["validation_accuracy"])
    assert result["best_epoch"] == best + 1
    assert result["validation_loss"] == context.rows[best]["validation_loss"]
    assert result["train_accuracy"] == context.rows[-1]["train_accuracy"]


def test_each_epoch_leaves_a_row(tmp_path):
    context = Context(tmp_path)
    train(job(), Streams(1), context)
    expected = {"train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "lr", "seconds"}
    assert all(set(row) == expected for row in context.rows)
    assert [row["lr"] for row in context.rows] == pytest.approx([0.02, 0.01707107, 0.01, 0.002928939], rel=1e-4)
    assert sum(row["seconds"] for row in context.rows) <= context.elapsed
    assert all(row["train_accuracy"] * 50 % 100 == pytest.approx(0, abs=1e-9) for row in context.rows)


def test_the_result_says_which_data_it_is_of(tmp_path):
    context = Context(tmp_path)
    train(job(precision="bf16", epochs=1), Streams(1), context)
    assert context.facts["precision"] == "bf16"
    assert "scikit-learn" in context.facts["data"]


def test_the_same_seed_gives_the_same_bits_whatever_the_global_generator_does(tmp_path):
    torch.manual_seed(1)
    first = train(job(), Streams(1), Context(tmp_path))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = train(job(), Streams(1), Context(tmp_path))
    torch.testing.assert_close(torch.get_rng_state(), before, rtol=0, atol=0)
    same(first, second)
    assert train(job(), Streams(2), Context(tmp_path))["train_loss"] != first["train_loss"]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_resumed_from_any_step_it_ends_in_the_same_bits(tmp_path, options):
    """One step, or the end of an epoch, at a time, each in a process of its own as far as the function can tell."""
    spec, straight = job(model=DROPOUT, epochs=3, **options), Context(tmp_path)
    expected = train(spec, Streams(1), straight)
    stops = 0
    while True:
        context = Stopping(tmp_path, checkpoint_seconds=0)
        try:
            Trainer(TrainJob.model_validate(spec), Streams(1), context).fit()
        except Stop:
            stops += 1
        else:
            break
    assert stops == 9  # two in the middle of each epoch of three batches, and one at its end
    resumed = Context(tmp_path)
    same(train(spec, Streams(1), resumed), expected)
    assert curves(resumed) == curves(straight)


def test_a_checkpoint_of_another_version_is_left_alone(tmp_path):
    expected = train(job(), Streams(1), Context(tmp_path))
    Context(tmp_path, checkpoint_seconds=0).checkpoint({"epoch": 2, "model": {}}, done=0.5)
    same(train(job(), Streams(1), Context(tmp_path)), expected)


def test_select_last_tests_the_last_epoch(tmp_path):
    context = Context(tmp_path)
    result = train(job(select="last"), Streams(1), context)
    assert result["best_epoch"] == 4
    assert result["validation_loss"] == context.rows[-1]["validation_loss"]


def test_a_loss_that_is_not_finite_is_divergence_at_chance_level(tmp_path):
    with pytest.raises(Diverged, match="in epoch") as caught:
        train(job(lr=1e30), Streams(1), Context(tmp_path))
    assert caught.value.metrics["test_accuracy"] == 10
    assert set(caught.value.metrics) == set(METRICS)
    assert caught.value.counted_as == "chance level, 10 %"


def test_a_loss_of_ones_own_is_what_is_trained(tmp_path):
    """Nothing is learned where the loss does not depend on the network."""

    def idle(net, images, labels):
        scores = net(images)
        return 0 * scores.sum(), scores

    trainer = Trainer(TrainJob.model_validate(job(epochs=1)), Streams(1), Context(tmp_path), loss=idle)
    before = [parameter.detach().clone() for parameter in trainer.model.parameters() if parameter.dim() == 1]
    trainer.fit()
    after = [parameter.detach() for parameter in trainer.model.parameters() if parameter.dim() == 1]
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))
    assert trainer.test()["train_loss"] == 0


def test_chance_is_where_an_untrained_network_is(tmp_path):
    trainer = Trainer(TrainJob.model_validate(job()), Streams(1), Context(tmp_path))
    result = trainer.evaluate(trainer.data.validation)
    scores = trainer.model(trainer.data.evaluated(trainer.data.validation, torch.arange(50))[0])
    labels = trainer.data.validation.labels
    assert result.loss == pytest.approx(torch.nn.functional.cross_entropy(scores, labels).item())
    assert result.accuracy == pytest.approx(100 * (scores.argmax(1) == labels).double().mean().item())
    assert not math.isnan(result.loss)


@pytest.mark.parametrize("options", [{}, {"ema": 0.9}], ids=["plain", "ema"])
def test_without_validation_examples_the_last_epoch_is_tested(options, tmp_path):
    """`there is nothing to normalize in an input [0, 1, 8, 8]: skip empty batches`"""
    context = Context(tmp_path)
    spec = job("n", data=UNVALIDATED, select="last", arms={"n": {"norm": "switch"}}, **options)
    rehearse([("n", spec)], processes=2)
    result = train(spec, Streams(1), context)
    assert result["best_epoch"] == 4
    assert not [name for name in [*result, *context.rows[0]] if name.startswith("validation")]
