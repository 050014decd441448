"""What was done, in words: sentences for the methods paragraph, titles of tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from normlab.study.job import TrainSpec
from normlab.study.spec import Protocol, StudySpec


def heading(protocol: Protocol, varied: Mapping[str, Any]) -> list[str]:
    """Parts of a table's title: data, network and rate, but for what the grid varies."""
    if not isinstance(protocol, StudySpec):
        return [protocol.name]
    parts = {
        "data.name": protocol.data.name,
        "model.name": protocol.model.name,
        "train.lr": f"lr {protocol.train.lr:g}",
    }
    return [text for key, text in parts.items() if key not in varied]


def methods(protocol: Protocol) -> tuple[str, ...]:
    """Facts for the methods paragraph, in whole sentences."""
    rule = "by the MD5 rule of Davis and Frank" if protocol.seed_scheme == "md5" else "taken as they are"
    if not isinstance(protocol, StudySpec):
        return (f"Each of the {len(protocol.seeds)} seeds ({rule}) gave every arm the same named random streams.",)
    seeds = (
        f"Each of the {len(protocol.seeds)} seeds ({rule}) gave every arm the same initial values (each parameter "
        "drawn from a stream keyed by its name), the same order of batches and the same data split."
    )
    return (*_setting(protocol), *_options(protocol.train), seeds)


def _setting(study: StudySpec) -> Iterator[str]:
    train, model = study.train, study.model
    stem = " with its CIFAR stem" if model.stem == "cifar" else ""
    values = {
        "train.lr": f"learning rate {train.lr:g}",
        "train.momentum": f"momentum {train.momentum:g}",
        "train.batch_size": f"batch size {train.batch_size}",
        "train.weight_decay": f"weight decay {train.weight_decay:g} on weights only",
    }
    kept = ", ".join(text for key, text in values.items() if key not in study.grid)
    yield (
        f"We trained {model.name}{stem} on {study.data.name} ({_data(study)}) for {train.epochs} epochs with "
        f"{_optimizer(train.optimizer)} ({kept}) and {_schedule(train)}."
    )
    if study.function is not None:
        yield f"Runs were carried out by {study.function}."


def _data(study: StudySpec) -> str:
    facts = [f"split seed {study.data.split_seed}"]
    facts += [f"at most {study.data.limit} examples"] if study.data.limit is not None else []
    facts += [f"{study.data.label_noise:.0%} of the training labels replaced"] if study.data.label_noise else []
    return ", ".join(facts)


def _optimizer(spec: str) -> str:
    return {"sgd": "SGD", "adamw": "AdamW"}.get(spec, spec)


def _schedule(train: TrainSpec) -> str:
    if train.schedule == "steps":
        epochs = ", ".join(map(str, train.milestones))
        return f"a learning rate multiplied by {train.step_factor:g} after {epochs} epochs"
    return "a half-cosine learning-rate schedule" if train.schedule == "cosine" else "a constant learning rate"


def _options(train: TrainSpec) -> Iterator[str]:
    """What differs from plain training, and which network was tested."""
    if train.augment:
        yield f"Training images were augmented ({', '.join(train.augment)})."
    if train.label_smoothing:
        yield f"Labels were smoothed by {train.label_smoothing:g}."
    if train.clip_grad_norm is not None:
        yield f"Gradients were clipped to a norm of {train.clip_grad_norm:g}."
    chosen = {"best_val": "the first epoch of best validation accuracy", "last": "the last epoch"}[train.select]
    if train.ema is None:
        yield f"The model of {chosen} was tested."
        return
    yield (
        f"The exponential moving average of the weights (decay {train.ema:g}), with running statistics computed anew "
        f"from training batches, of {chosen} was tested."
    )
