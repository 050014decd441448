"""Study files with the trainer's options, and with a function of their own around it."""

import pytest

from normlab.errors import SpecError, UnknownName
from normlab.study import Study

TEXT = """
baseline = "SGD"
seeds = 2
[data]
name = "digits(train=50, validation=50)"
[model]
name = "resnet8(width=2)"
[train]
epochs = 1
batch_size = 20
lr = 0.02
[arms]
SGD = "baseline"
"SN + SAM-ON" = { norm = "switch", optimizer = "sam(rho=0.5, scope='norm')", train = { lr = 0.05 } }
"""

FUNCTION = """
from normlab.study.job import TrainJob
from normlab.study.training import Trainer
def train(arm, streams, context):
    trainer = Trainer(TrainJob.model_validate(arm), streams, context)
    trainer.fit()
    return {**trainer.test(), "robust_accuracy": 1.0 + streams.seed + (arm.get("norm") is not None)}
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_trainer.py").write_text(FUNCTION)
    path = tmp_path / "tiny.toml"
    path.write_text(TEXT)
    return path


def run(study):
    return study.run(workers=0, progress=False, device="cpu")


def test_an_arm_may_have_its_own_normalizer_and_optimizer(file):
    results = run(Study.load(file))
    assert len(results.finished) == 4
    assert results.failures == {}
    environment = next(iter(results.finished.values())).environment
    assert environment["data"].startswith("scikit-learn")
    assert results.arms["SN + SAM-ON"].startswith("baseline, norm = switch, optimizer = sam(")
    assert {"train_accuracy", "validation_loss"} <= set(results.compare().panels[0].curves)
    assert "seconds" not in results.compare().panels[0].curves


@pytest.mark.parametrize("metric", ["train_accuracy", "validation_accuracy", "test_loss"])
def test_any_metric_of_the_trainer_can_be_compared(file, metric):
    better = ["analysis.better=lower"] if metric.endswith("loss") else []
    results = run(Study.load(file, [f"metric={metric}", *better]))
    assert results.scores().metric == metric


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["metric=test_acuracy"], "unknown metric 'test_acuracy'; did you mean 'test_accuracy'?"),
        (["metric=test_loss"], "is better when it is lower: write analysis.better = 'lower'"),
        (["function=own_traner.py:train"], "did you mean"),
        (["function=own_trainer.py:trian"], "has no 'trian'; did you mean 'train'"),
    ],
)
def test_a_misspelt_metric_or_function_is_refused_before_anything_runs(file, overrides, part):
    with pytest.raises(SpecError) as caught:
        Study.load(file, overrides)
    assert part in str(caught.value)


def test_a_function_of_ones_own_carries_out_the_runs_of_a_study_file(file):
    own = ["function=own_trainer.py:train", "metric=robust_accuracy"]
    study = Study.load(file, own)
    assert {run.key for run in study.runs}.isdisjoint(run.key for run in Study.load(file).runs)
    results = run(study)
    assert results.failures == {}
    assert results.scores().values.tolist() == [[2.0, 3.0], [3.0, 4.0]]
    assert Study.load(file, [*own, "train.epochs=2"]).runs[0].job["train"]["epochs"] == 2


def test_the_metric_of_a_function_of_ones_own_is_checked_against_what_it_returned(file):
    own = ["function=own_trainer.py:train", "metric=robust_accuracy"]
    run(Study.load(file, own))
    other = Study.load(file, [own[0], "metric=robust_acuracy"])
    for ask in (other.status, other.results().scores, lambda: run(other)):
        with pytest.raises(UnknownName, match="unknown metric 'robust_acuracy'; did you mean 'robust_accuracy'"):
            ask()
