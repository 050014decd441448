"""Too little memory is an error that says which batch fits."""

import pytest
import torch

from normlab.errors import SpecError
from normlab.seeding import Streams
from normlab.study.context import Context
from normlab.study.job import TrainJob
from normlab.study.training import Trainer
from normlab.study.training.memory import is_out_of_memory
from normlab.study.training.step import Step
from tests.unit.study.training.small import job


def full(message="CUDA out of memory. Tried to allocate 20.00 MiB"):
    raise torch.OutOfMemoryError(message)


def trainer(tmp_path, limit, **options):
    """One with memory for `limit` images."""

    def loss(net, images, labels):
        if len(images) > limit:
            full()
        scores = net(images)
        return torch.nn.functional.cross_entropy(scores, labels), scores

    return Trainer(TrainJob.model_validate(job(**options)), Streams(1), Context(tmp_path), loss=loss)


@pytest.mark.parametrize("optimizer", ["sgd", "sam"])
@pytest.mark.parametrize(
    ("limit", "part"),
    [
        (19, r"too little memory for train.batch_size = 20; 10 fits \(--set train.batch_size=10"),
        (3, r"train.batch_size = 20; 2 fits"),
        (0, "train.batch_size = 20, and for a batch of 1: take smaller images or a smaller network"),
    ],
)
def test_the_message_names_the_batch_and_what_fits(tmp_path, limit, part, optimizer):
    with pytest.raises(SpecError, match=part):
        trainer(tmp_path, limit, optimizer=optimizer).fit()


def test_what_fits_is_tried_with_the_memory_that_the_failed_step_held(tmp_path, monkeypatch):
    """A batch of half the size needs what the first one had, which must have been let go."""
    alive, made = [], trainer(tmp_path, 100)

    class Held:
        def __init__(self):
            alive.append(1)

        def __del__(self):
            alive.pop()

    def step(self, images, labels, count):
        activations = Held()
        if len(alive) > 1 or len(images) > 10:
            full()
        return activations and torch.zeros(()), torch.zeros(())

    monkeypatch.setattr(Step, "__call__", step)
    with pytest.raises(SpecError, match="10 fits"):
        made.fit()


def test_memory_that_lacks_before_the_first_batch(tmp_path, monkeypatch):
    monkeypatch.setattr("normlab.study.training.trainer.build_model", lambda *_, **__: full())
    with pytest.raises(SpecError, match="too little memory for the data and the network, whatever the batch"):
        trainer(tmp_path, 100)


def test_the_optimizers_state_counts_too(tmp_path, monkeypatch):
    """It is made by the first step, so the trial takes a whole step."""
    made, calls = trainer(tmp_path, 10), []
    original = made.optimizer.step
    monkeypatch.setattr(made.optimizer, "step", lambda *a, **k: (calls.append(1), original(*a, **k)))
    with pytest.raises(SpecError, match="10 fits"):
        made.fit()
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("x"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("size mismatch"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_what_counts_as_a_lack_of_memory(error, expected):
    assert is_out_of_memory(error) == expected


def test_other_errors_are_left_as_they_are(tmp_path):
    def wrong(net, images, labels):
        raise RuntimeError("size mismatch")

    made = Trainer(TrainJob.model_validate(job()), Streams(1), Context(tmp_path), loss=wrong)
    with pytest.raises(RuntimeError, match="size mismatch"):
        made.fit()


@pytest.mark.gpu
def test_a_real_gpu_that_is_too_small(tmp_path):
    torch.cuda.set_per_process_memory_fraction(0.01)
    try:
        spec = TrainJob.model_validate(job(model={"name": "resnet8(width=1024)"}, batch_size=50))
        with pytest.raises(SpecError, match=r"too little memory .* GiB"):
            Trainer(spec, Streams(1), Context(tmp_path, "cuda:0")).fit()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
