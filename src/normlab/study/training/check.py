"""A job as people write it → the job with every name checked and its defaults written out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from normlab.errors import SpecError
from normlab.recipes import canonical, recipe
from normlab.registry import Call, parse
from normlab.screen.candidates import check as check_norm
from normlab.study.data import canonical_data
from normlab.study.data.augment import canonical_augment
from normlab.study.job import TrainJob
from normlab.study.models import canonical_model
from normlab.study.reading import validate
from normlab.study.training.optimizers import canonical_optimizer
from normlab.study.training.schedule import check_schedule
from normlab.surgery.conversion.targets import read_target


def read_job(tree: Mapping[str, Any], *, where: str = "") -> TrainJob:
    """A job from `{"data": {...}, "model": {...}, "train": {...}, "recipe": ..., "norm": ...}`.

    Raises:
        SpecError: a key, name or value that cannot be used, or two that cannot be used together.
    """
    return canonical_job(validate(TrainJob, tree, where=where))


def canonical_job(job: TrainJob) -> TrainJob:
    """Equal jobs read the same.

    Raises:
        SpecError: as `read_job`.
    """
    check_schedule(job.train)
    train = {
        "optimizer": canonical_optimizer(job.train.optimizer, job.train.momentum),
        "augment": canonical_augment(job.train.augment),
    }
    update = {
        "recipe": _recipe(job),
        "norm": None if job.norm is None else _norm(job.norm),
        "model": canonical_model(job.model),
        "data": job.data.model_copy(update={"name": canonical_data(job.data.name)}),
        "train": job.train.model_copy(update=train),
    }
    return job.model_copy(update=update)


def _norm(spec: str) -> str:
    """With its arguments in order; what is not named stays out, since `convert` takes it from the layer replaced."""
    call = parse(check_norm(spec), kind="norm")
    return str(Call(call.name, dict(sorted(call.arguments.items()))))


def _recipe(job: TrainJob) -> str:
    """Scales that start at 1 and learn at the full rate are those of every normalizer, not of BatchNorm alone."""
    chosen = recipe(job.recipe)
    if job.norm is None:
        return canonical(job.recipe)
    to = "batch" if chosen.formulation != "standard" else chosen.to
    if to is not None and not read_target(to).convolution:
        raise SpecError(f"recipe {chosen.name!r} puts {to!r} in place of norm = {job.norm!r}: leave one of the two out")
    if chosen.name != "baseline" or chosen.norms == "all":
        return canonical(job.recipe)
    call = parse(job.recipe, kind="recipe")
    return canonical(str(Call(call.name, {**call.arguments, "norms": "all"})))
