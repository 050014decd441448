"""A network as an arm wants it: made, its normalizer replaced, prepared by its recipe."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from normlab.recipes import recipe
from normlab.screen.candidates import replace
from normlab.seeding import Streams
from normlab.study.job import TrainJob
from normlab.study.models import create_model


def build_model(job: TrainJob, streams: Streams, *, in_channels: int, num_classes: int) -> nn.Module:
    """create_model → convert → recipe.prepare, on the CPU.

    Initial values come from "init" by the name of the parameter; those that nothing but the model or the new layer
    draws, from "model" and from "init", "convert".

    Raises:
        SpecError: a network that cannot be made, converted or prepared; why.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(streams.integer("model"))
        model = create_model(job.model, in_channels=in_channels, num_classes=num_classes)
    if job.norm is not None:
        model = replace(model, job.norm, streams)
    return recipe(job.recipe).prepare(model, streams=streams, in_channels=in_channels)


def parameter_groups(job: TrainJob, model: nn.Module) -> list[dict[str, Any]]:
    """The groups of the arm's recipe, for an optimizer."""
    return recipe(job.recipe).param_groups(model, lr=job.train.lr, weight_decay=job.train.weight_decay)
