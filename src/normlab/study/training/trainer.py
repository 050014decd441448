"""One network in training: set up from its job, trained epoch by epoch, and tested."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from normlab.errors import NotFinite
from normlab.layers import set_progress
from normlab.recipes import attach_rules
from normlab.seeding import Streams
from normlab.study.context import Context
from normlab.study.data.examples import Examples
from normlab.study.job import TrainJob
from normlab.study.models import model_facts
from normlab.study.training import memory
from normlab.study.training.arithmetic import Arithmetic
from normlab.study.training.average import Average
from normlab.study.training.evaluation import Evaluation, diverged, evaluate
from normlab.study.training.feed import Epoch, Feed
from normlab.study.training.kept import FORMAT, Best, Midway, generators, set_generators
from normlab.study.training.network import build_model, layout, parameter_groups
from normlab.study.training.optimizers import make_optimizer
from normlab.study.training.schedule import check_floor, lr_share, set_lr
from normlab.study.training.step import Loss, Step, cross_entropy


class Trainer:
    """Sets up what a job describes, trains it, and tests it.

        trainer = Trainer(TrainJob.model_validate(arm), streams, context)
        trainer.fit()
        return trainer.test()

    It never asks which arm it runs. Nothing waits for a GPU within an epoch, but for a checkpoint in a long one.

    Args:
        job: resolved, as a training function gets it.
        streams: of this run's seed: "init" by parameter name, "model", "shuffle", "augment" and "dropout" by epoch.
        context: takes a row per epoch (train_loss, train_accuracy, validation_loss, validation_accuracy, lr, seconds),
            checkpoints, and facts about data, network and arithmetic.
        loss: of a batch, `loss(net, images, labels) -> (mean loss, scores [b, classes])`; cross-entropy unless given.
            It is called again on the same batch where the optimizer takes two passes (SAM).

    Attributes:
        data: the examples, on the device.
        model: the network; `step.net` is the same with gradients shared between the processes of the run.
        optimizer: as the arm has it.

    Raises:
        SpecError: data, network, recipe or optimizer that cannot be had as the job says; too little memory for them.
    """

    model: nn.Module

    def __init__(self, job: TrainJob, streams: Streams, context: Context, *, loss: Loss | None = None) -> None:
        self.job, self.streams, self.context = job, streams, context
        self.world, self.device = context.world, context.device
        self.arithmetic = Arithmetic.of(job.train, context.device, context.world.size)
        self.best: Best | None = None
        with memory.explained(self.device, lambda: "the data and the network, whatever the batch"):
            self._set_up(cross_entropy(job.train.label_smoothing) if loss is None else loss)

    def _set_up(self, loss: Loss) -> None:
        job, train = self.job, self.job.train
        self.data = Feed.of(job, self.device)
        sizes = (len(split) for split in (self.data.train, self.data.validation, self.data.test))
        self.world.check(train.batch_size, *sizes)
        self.context.facts.update({**self.data.facts, **model_facts(job.model), **self.arithmetic.facts()})
        model = build_model(job, self.streams, in_channels=self.data.in_channels, num_classes=self.data.num_classes)
        model = self.world.synchronise(model).to(self.device)
        self.data = replace(self.data, layout=layout(job, model, self.device))
        self.model = model.to(memory_format=self.data.layout)  # pyright: ignore[reportCallIssue] - of torch's overloads
        groups = parameter_groups(job, self.model)
        self.optimizer = make_optimizer(train.optimizer, groups, self.model, momentum=train.momentum)
        check_floor(self.optimizer, train)
        attach_rules(self.optimizer, self.model)
        self.average = None if train.ema is None else Average(self.model, train.ema)
        self.arithmetic.compile(self.model, self.tested)
        net, clip = self.world.wrap(self.model), train.clip_grad_norm
        self.step = Step(net, self.model, self.optimizer, loss, self.arithmetic, self.world, self.average, clip)

    @property
    def tested(self) -> nn.Module:
        """The network that is validated and tested: the one in training, or its average."""
        return self.model if self.average is None else self.average.model

    def fit(self) -> None:
        """Train to the end, from the last checkpoint where there is one.

        Raises:
            Diverged: the training loss became non-finite; counted as chance level.
            SpecError: too little memory; the message says which batch fits.
        """
        with self.arithmetic.applied(), memory.explained(self.device, self._what_fits):
            first, midway = self._resume()
            for number in range(first, self.job.train.epochs):
                self._epoch(number, midway)
                midway = None

    def evaluate(self, part: Examples) -> Evaluation:
        """How good the network that is validated and tested is on a split, `trainer.data.test`, say."""
        with self.arithmetic.applied():
            return evaluate(self.tested, self.data, part, self.arithmetic, self.world)

    def test(self) -> dict[str, Any]:
        """Test the network of the chosen epoch, which `model` or its average then is.

        Returns:
            test_accuracy, validation_accuracy and train_accuracy in %, the losses, best_epoch (1-based), and
            `correct`, [test examples] bool. Those of training are of the last epoch, as it went along.
        """
        assert self.best is not None, "fit() comes first"
        self.tested.load_state_dict(self.best.state)
        result, last = self.evaluate(self.data.test), self.context.rows[-1]
        correct = result.correct.cpu().numpy()
        metrics = {
            "test_accuracy": 100 * float(correct.mean()),
            "test_loss": result.loss,
            "best_epoch": self.best.epoch + 1,
            "train_loss": last["train_loss"],
            "train_accuracy": last["train_accuracy"],
        }
        if len(self.data.validation):
            metrics["validation_accuracy"] = self.best.validation_accuracy
            metrics["validation_loss"] = self.best.validation_loss
        return {**metrics, "correct": correct}

    def _epoch(self, number: int, midway: Midway | None) -> None:
        midway = midway or Midway.start(self.device, self.context.elapsed)
        set_lr(self.optimizer, self.job.train, number)
        epoch = self.data.epoch(self.streams, number)
        with self._dropout(number, midway):
            self._batches(number, epoch, midway)
        row = self._trained(number, midway)
        self.world.settle(self.model)
        row |= self._validated(number, epoch)
        lr = lr_share(self.optimizer) * self.job.train.lr
        self.context.log(**row, lr=lr, seconds=self.context.elapsed - midway.began)
        self.context.checkpoint(self._state(number + 1, None), done=(number + 1) / self.job.train.epochs)

    def _batches(self, number: int, epoch: Epoch, midway: Midway) -> None:
        """The steps of an epoch that are not done yet."""
        train, listeners, first = self.job.train, 1, midway.step
        batches, share = epoch.order.split(train.batch_size), lr_share(self.optimizer)
        self.step.net.train()
        for step in range(first, len(batches)):
            done = (number + step / len(batches)) / train.epochs
            if step > first:
                self._between(number, step, midway, done)
            listeners = listeners and set_progress(self.model, done, lr_share=share)
            count = len(batches[step])
            images, labels = self.data.training(epoch, batches[step][self.world.part(count)])
            loss, correct = self.step(images, labels, count)
            midway.loss = midway.loss + loss.to(midway.loss.dtype) * count
            midway.correct = midway.correct + correct

    def _between(self, number: int, step: int, midway: Midway, done: float) -> None:
        """Between two steps: say how far it is; a checkpoint, if the last one is old enough."""
        if self.world.size == 1 and self.context.due:
            midway.step, midway.generators = step, generators(self.device)
            self.context.checkpoint(self._state(number, midway), done=done)
        else:
            self.context.progress(done)

    @contextmanager
    def _dropout(self, number: int, midway: Midway) -> Generator[None, None, None]:
        """torch's default generators belong to this epoch's "dropout" stream inside."""
        gpus = [self.device] if torch.device(self.device).type == "cuda" else []
        with torch.random.fork_rng(devices=gpus):
            torch.manual_seed(self.streams.integer("dropout", number, *self.world.key))
            if midway.generators is not None:
                set_generators(self.device, midway.generators)
            yield

    def _trained(self, number: int, midway: Midway) -> dict[str, float]:
        """Loss and accuracy over the epoch; here the device is waited for."""
        count = len(self.data.train)
        loss = float(self.world.sum(midway.loss) / self.world.size / count)
        if not math.isfinite(loss):
            raise diverged(f"loss is {loss} in epoch {number + 1}", self.data)
        return {"train_loss": loss, "train_accuracy": 100 * float(self.world.sum(midway.correct)) / count}

    def _validated(self, number: int, epoch: Epoch) -> dict[str, float]:
        """Validation loss and accuracy; keeps the network, if it is the one to be tested so far."""
        if self.average is not None:
            images = self.data.some(epoch, self.job.train.batch_size, self.world)
            try:
                self.average.settle(self.model, images, self._forward)
            except NotFinite as error:  # after the last step, so that the loss does not know of it
                raise diverged(f"the averaged network in epoch {number + 1}: {error}", self.data) from None
        result = self.evaluate(self.data.validation)
        if self.job.train.select == "last":
            chosen = number + 1 == self.job.train.epochs
        else:
            chosen = self.best is None or result.accuracy > self.best.validation_accuracy
        if chosen:
            state = {name: value.clone() for name, value in self.tested.state_dict().items()}
            self.best = Best(number, result.accuracy, result.loss, state)
        if not len(self.data.validation):
            return {}
        return {"validation_loss": result.loss, "validation_accuracy": result.accuracy}

    def _forward(self, model: nn.Module, images: Tensor) -> Tensor:
        with self.arithmetic.autocast():
            return model(images)

    def _state(self, epoch: int, midway: Midway | None) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "epoch": epoch,
            "midway": None if midway is None else dict(vars(midway)),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state(),
            "best": None if self.best is None else dict(vars(self.best)),
        }

    def _resume(self) -> tuple[int, Midway | None]:
        """The epoch to go on with, and how far it is."""
        state = self.context.restore()
        if state is None or state.get("format") != FORMAT:
            self.context.rows.clear()
            return 0, None
        self._load(state)
        if state["midway"] is None:
            return state["epoch"], None
        midway = Midway(**state["midway"])  # of a run on one process; what it counted is the first one's now
        if not self.world.is_first:
            midway.correct, midway.generators = torch.zeros_like(midway.correct), None
        return state["epoch"], midway

    def _load(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load(state["average"])
        self.best = None if state["best"] is None else Best(**state["best"])

    def _what_fits(self) -> str:
        size = self.job.train.batch_size
        if self.world.size > 1:
            return f"train.batch_size = {size} on {self.world.size} processes"
        return memory.batch_text(size, memory.largest_that_fits(self._attempt, size))

    def _attempt(self, size: int) -> None:
        """A step with a smaller batch, of a network that nobody wants any more."""
        self.step.forget()
        epoch = self.data.epoch(self.streams, 0)
        with self.arithmetic.applied():
            self.step(*self.data.training(epoch, epoch.order[:size]), size)
