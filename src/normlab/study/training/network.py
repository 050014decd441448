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

REGISTER = 16  # float32 values, of AVX-512


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


def layout(job: TrainJob, model: nn.Module, device: torch.device | str) -> torch.memory_format:
    """How images and weights lie in memory: channels last, which is 15 % faster on a CPU, if the job says so.

    Not where that is unsafe: in the backward pass of a strided 1x1 convolution on a CPU oneDNN writes past its
    workspace if the input has channels last and fewer of them than a vector register has values, 16 at most. Processes
    crash, and gradients are wrong.

    Source: https://github.com/uxlfoundation/oneDNN/issues/6035
    """
    unsafe = torch.device(device).type == "cpu" and any(_overruns(m) for m in model.modules())
    return torch.channels_last if job.train.channels_last and not unsafe else torch.contiguous_format


def _overruns(module: nn.Module) -> bool:
    if not isinstance(module, nn.Conv2d):
        return False
    strided = module.kernel_size == (1, 1) and module.stride != (1, 1)
    return strided and module.in_channels // module.groups < REGISTER


def parameter_groups(job: TrainJob, model: nn.Module) -> list[dict[str, Any]]:
    """The groups of the arm's recipe, for an optimizer."""
    return recipe(job.recipe).param_groups(model, lr=job.train.lr, weight_decay=job.train.weight_decay)
