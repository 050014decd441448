"""What would stop every run, found before the first one starts; and what a run takes."""

from __future__ import annotations

import functools
import math
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from normlab.errors import SpecError
from normlab.recipes import recipe
from normlab.seeding import Streams
from normlab.study.context import Context
from normlab.study.data.examples import Examples
from normlab.study.distributed import World
from normlab.study.job import DataSpec, TrainJob
from normlab.study.training.arithmetic import Arithmetic
from normlab.study.training.feed import Feed
from normlab.study.training.network import build_model, parameter_groups
from normlab.study.training.optimizers import make_optimizer
from normlab.study.training.schedule import check_floor
from normlab.study.training.trainer import Trainer

LINE_EVERY = 2.0  # seconds
LONG_STEP = 0.15  # seconds; shorter steps are mostly what each one takes whatever its images
FURTHER = 4  # times as many images tell what an image takes
ENOUGH = 1.0  # seconds after which a step is not repeated

T = TypeVar("T")


def in_time(items: Sequence[T], seconds: float, what: str) -> Iterator[T]:
    """One after the other until the time is up, the first in any case; tells how far it is on standard error."""
    start = told = time.monotonic()
    for number, item in enumerate(items):
        now = time.monotonic()
        if now - told > LINE_EVERY:
            told = now
            print(f"{what}: {number} of {len(items)}", file=sys.stderr, flush=True)
        if number and now - start > seconds:
            return
        yield item


def rehearse(
    arms: Iterable[tuple[str, Mapping[str, Any]]], processes: int = 1, *, seconds: float = math.inf
) -> tuple[int, int]:
    """Set up each network once and push images through it.

    Args:
        arms: name and job.
        processes: of a run, which share each batch.
        seconds: no further network is set up after them.

    Returns:
        How many networks were set up, and how many there are.

    Raises:
        SpecError: data that cannot be split as asked, a network that cannot be built, converted, prepared or trained on
            these images; batches or statistics that cannot be shared.
        DataError: data that cannot be had.
    """
    distinct: dict[tuple[Any, ...], tuple[str, TrainJob]] = {}
    for arm, tree in arms:
        job = TrainJob.model_validate(tree)
        distinct.setdefault(_network(job), (arm, job))
    done = 0
    for arm, job in in_time(list(distinct.values()), seconds, "networks set up"):
        try:
            _set_up(job, World(size=processes))
        except SpecError as error:
            raise SpecError(f"arms.{arm}: {error}") from error
        done += 1
    return done, len(distinct)


def _set_up(job: TrainJob, world: World) -> None:
    Arithmetic.of(job.train, "cpu", world.size)
    feed, streams = Feed.of(job, "cpu"), Streams(0)
    model = build_model(job, streams, in_channels=feed.in_channels, num_classes=feed.num_classes)
    groups = parameter_groups(job, model)
    check_floor(make_optimizer(job.train.optimizer, groups, model, momentum=job.train.momentum), job.train)
    _pass(job, feed, model)
    world.check(job.train.batch_size, len(feed.train), len(feed.validation), len(feed.test))
    world.synchronise(model)


def _network(job: TrainJob) -> tuple[Any, ...]:
    """What tells whether two jobs set up the same."""
    train = job.train
    rates = (train.lr, train.eta_min, train.schedule) if train.lr < 1e4 * train.eta_min else ()
    options = train.batch_size, train.optimizer, tuple(train.augment), train.select, train.compile
    return repr(_clean(job.data)), repr(job.model), job.recipe, job.norm, options, rates


def _clean(data: DataSpec) -> DataSpec:
    """As many images, of the same size."""
    return data.model_copy(update={"label_noise": 0.0, "split_seed": 0})


@torch.no_grad()
def _pass(job: TrainJob, feed: Feed, model: torch.nn.Module) -> None:
    """Two training images, or one where an epoch ends with a batch of one."""
    examples = len(feed.train)
    single = examples % job.train.batch_size == 1 or job.train.batch_size == 1
    epoch = feed.epoch(Streams(0), 0)
    images, _ = feed.training(epoch, epoch.order[: 1 if single else 2])
    shape = "x".join(map(str, images.shape))
    try:
        with torch.random.fork_rng(devices=[]):
            scores = model.train()(images)
    except Exception as error:
        last = f" (the last batch: {examples} examples in batches of {job.train.batch_size})" if single else ""
        raise SpecError(f"{job.model.name} cannot be trained on images {shape}{last}: {error}") from error
    wanted = (len(images), feed.num_classes)
    if not isinstance(scores, torch.Tensor) or tuple(scores.shape) != wanted:
        came = tuple(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
        raise SpecError(f"{job.model.name} makes {came} of images {shape}; scores {wanted} are wanted")


def seconds_of(job: Mapping[str, Any], *, device: str = "cpu", steps: int = 3) -> float:
    """Seconds that a run of this job would take, drawn out from a few steps on a few images, and their evaluation.

    It takes some seconds itself, whatever the batch; others who use the machine meanwhile make it too long.

    Jobs that differ by numbers only (rates, epochs, initial scales) are measured once in a process.

    Raises:
        SpecError: as `rehearse`.
    """
    spec = TrainJob.model_validate(job)
    pace = _pace(_in_kind(spec), device, steps)
    an_epoch = -(-pace.train // spec.train.batch_size) * pace.step + pace.validation * pace.example
    return pace.setup + spec.train.epochs * an_epoch + pace.test * pace.example


@dataclass(frozen=True)
class _Pace:
    """Seconds to set up, of a step, and of an example in evaluation; numbers of examples."""

    setup: float
    step: float
    example: float
    train: int
    validation: int
    test: int


def _in_kind(job: TrainJob) -> str:
    """The job as JSON, with the same numbers in all that take equally long."""
    chosen = recipe(job.recipe)
    plain = chosen.to is None and chosen.formulation == "standard" and chosen.input_norm and chosen.init == "fan_in"
    alike = {"recipe": "baseline(norms='all')" if plain else job.recipe}
    rates: dict[str, Any] = {"epochs": 1, "lr": 0.1, "eta_min": 1e-8, "schedule": "cosine", "milestones": []}
    train = job.train.model_copy(update={**rates, "weight_decay": 1e-4, "select": "last"})
    return job.model_copy(update={**alike, "train": train, "data": _clean(job.data)}).model_dump_json()


@functools.lru_cache(maxsize=64)
def _pace(job: str, device: str, steps: int) -> _Pace:
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        trainer = Trainer(TrainJob.model_validate_json(job), Streams(0), Context(Path(place), device))
        setup = time.perf_counter() - start
        with trainer.arithmetic.applied():
            step, few = _step_seconds(trainer, steps)
            example = _evaluation_seconds(trainer, few)
    data = trainer.data
    return _Pace(setup, step, example, len(data.train), len(data.validation), len(data.test))


def _step_seconds(trainer: Trainer, steps: int) -> tuple[float, int]:
    """Of a step on a whole batch, and how many images it was drawn out from.

    A step takes a + b images: both are told by the shortest steps of two sizes, the larger of them the whole batch
    where that is small enough.
    """
    whole = min(trainer.job.train.batch_size, len(trainer.data.train))
    epoch = trainer.data.epoch(trainer.streams, 0)
    trainer.step.net.train()

    def taken(size: int) -> float:
        start = time.perf_counter()
        images, labels = trainer.data.training(epoch, epoch.order[:size])
        trainer.step(images, labels, len(labels))[0].item()  # waits for a GPU
        return time.perf_counter() - start

    def shortest(size: int) -> float:
        every = [taken(size)]
        while len(every) < steps and sum(every) < ENOUGH:
            every.append(taken(size))
        return min(every)

    few = min(2, whole)
    taken(few)  # the first step is longer
    while few < whole and taken(few) < LONG_STEP:
        few = min(2 * few, whole)
    more = min(FURTHER * few, whole)
    short, long = shortest(few), shortest(more)
    each = min(max(0.0, long - short) / (more - few), long / more) if more > few else 0.0
    return long + (whole - more) * each, more


def _evaluation_seconds(trainer: Trainer, few: int) -> float:
    """Of an example."""
    test = trainer.data.test
    few = min(len(test), trainer.data.evaluated_at_once, 2 * few)  # which take less than a step
    part = Examples(test.pool, test.rows[:few], test.labels[:few])
    taken: list[float] = []
    for _ in range(2):
        start = time.perf_counter()
        trainer.evaluate(part)
        taken.append(time.perf_counter() - start)
    return min(taken) / few
