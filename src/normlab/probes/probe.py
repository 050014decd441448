"""`normlab.probe`: measures inside anybody's training loop, at chosen steps, and leaves no trace."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import get_args

import torch
from torch import nn

from normlab.errors import UnknownName, require
from normlab.probes.hooks.plan import Mode, make_plan
from normlab.probes.hooks.probing import Probing
from normlab.probes.hooks.steps import Steps
from normlab.probes.hooks.targets import Where, inner_model
from normlab.probes.loggers import Log, loggers
from normlab.surgery.wrapped import is_compiled


def probe(
    model: nn.Module,
    probes: str | Sequence[str],
    *,
    every: int | None = None,
    steps: Iterable[int] | None = None,
    start: int = 0,
    log: Log | None = None,
    where: Where | None = None,
    mode: Mode = "train",
    scaler: torch.amp.GradScaler | None = None,
    eager: bool = False,
    manual: bool = False,
) -> Probing:
    """Measure quantities of a model's layers while the block lasts.

        with normlab.probe(model, ["gradient_factor", "stable_rank"], every=100, log="probes.jsonl") as p:
            train(model)
        p.last["norm/layer1.0.bn1/stable_rank"]

    A step is what lies between two steps of the optimizer that holds the model's parameters; several passes in it, such
    as micro-batches, the two of SAM or those of a step that a GradScaler skips, count together. Of several optimizers
    that take turns the last one ends the step. Which is the last shows when each has stepped: where one steps several
    times before another has done so at all, each of these is a step, and where the last one steps several times in a
    row, always; `manual=True` tells it exactly. Without an optimizer of torch's, call `p.step()` at the end of each;
    without either, all is step 0. The model trains as it would without, bit for bit: hooks are there in chosen steps
    only, only read, draw no random numbers, and keep numbers and no activations. Passes that activation checkpointing
    repeats count once. All is computed in float32 or wider.

    What leaves a layer (`activation_variance`, `mean_cosine`, `stable_rank`) is measured behind the activation module
    that takes it directly, which `p.places` names. Functional activations, such as `F.relu` and `torch.relu`, are not
    seen: such layers are not in `p.places`, and are measured before the nonlinearity.

    Args:
        model: wrapped in DistributedDataParallel is as good; each process measures its own part of the batch.
        probes: names, or specs such as "large_values(threshold=3)".
        every: measure at steps 0, every, 2 every, ...; all steps if `steps` is not given either.
        steps: measure at these.
        start: the number of the first step, for training that goes on.
        log: a file ending in .jsonl or .csv, which process 0 alone writes, a `Logger`, or several of them.
        where: which layers: names, patterns such as "layer4.*", or a function of name and module; None for all that
            normalize.
        mode: measure the passes in training mode ("train"), in eval mode, or "both".
        scaler: of a training in float16: gradients are divided by its scale.
        eager: run the chosen steps of a compiled model uncompiled, since compiled code calls no hooks; they round
            otherwise than the others.
        manual: steps end where `p.step()` is called, whatever optimizers do.

    Raises:
        UnknownName: no such probe, layer or mode.
        SpecError: nothing that a probe can measure; a model whose layers call no hooks; arguments that make no sense.
    """
    known = get_args(Mode)
    if mode not in known:
        raise UnknownName("mode", mode, known)
    inner = inner_model(model, eager=eager)
    if scaler is not None:
        require(scaler, torch.amp.GradScaler, "scaler is the GradScaler of the training")
    plan = make_plan(inner, probes, where, mode)
    compiled = eager and is_compiled(model)
    return Probing(plan, Steps(every, steps, start), loggers(log), scaler=scaler, force_eager=compiled, manual=manual)
