"""`normlab.landscape`: trains copies of a network, with its norms and without, and measures their losses."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import nn

from normlab.errors import NormlabError, SpecError, came, require
from normlab.inputs import Forward, alone, failure_text, few_threads, inside, obstacle, sandbox, usable_device
from normlab.inputs.running import is_out_of_memory
from normlab.landscape.batches import Batches, UserLoss, read_batches
from normlab.landscape.cost import estimate
from normlab.landscape.fixed import Fixed
from normlab.landscape.measure import Walk
from normlab.landscape.parts import Settings, check, check_seed, choose
from normlab.landscape.result import LandscapeReport, Track
from normlab.surgery import convert, norm_sites
from normlab.surgery.conversion.targets import read_target
from normlab.surgery.statistics.kept import keepers

NONE = "none"


def landscape(  # noqa: PLR0913 - one for each choice, all of them by name
    model: nn.Module,
    batch: Any = None,
    *,
    loader: Any = None,
    against: str | None = NONE,
    steps: int = 100,
    points: int = 21,
    lr: float = 0.05,
    only: str | Iterable[str] | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    forward: Forward | None = None,
    loss: UserLoss | None = None,
    say: Callable[[str], None] | None = None,
    progress: Callable[[float], None] | None = None,
) -> LandscapeReport:
    """Train a copy of a network for some steps, and measure its loss around the weights on the way and at the end.

    The network it is compared with begins with the same weights and sees the same batches. With `against="none"` each
    norm becomes the linear map that it is on the first batch, so both begin as the same function too, if the norms are
    BatchNorm: what differs is normalization alone. Training is plain gradient descent. The model is left as it was.

    Curves, covariate shift, ratios and sharpness normalize by the batch. Accuracy, ablation and slices are those of
    eval mode; running statistics, which lag behind the weights in training, are taken anew on the same batches before,
    but for a trained model with `steps=0`.

    Args:
        model: with random weights, or a trained one: `steps=0` looks around the weights as they are.
        batch: as of `normlab.doctor`: a tensor, or a tuple with labels behind the inputs, or a dict, or a shape such
            as "64x3x32x32", for random numbers. Labels are [N] integers for scores [N, classes]; without any the
            model's own loss is taken, or random labels, or the mean square of the outputs, and the report says so.
        loader: gives such batches: the first 16 are used, in turn. Instead of `batch`.
        against: "none", a norm such as "group(num_groups=8)", or None for no comparison. As in `normlab.convert`, the
            norms of batch type are exchanged, or all of a model without any.
        steps: of training. points: at how many of them the curves are measured. lr: learning rate; the curves walk half
            to four times as far along the gradient.
        only: names of parts, `normlab.landscape.PARTS`; a text may list several with commas. None is all.
        seed: of directions, orders of channels and random labels.
        device: where copies are trained; None is where the model is.
        forward: runs the model on a batch where that needs more: lambda model, batch: model(...).
        loss: lambda model, batch: the loss [], where it is none of the above.
        say: gets the expected cost, before the work. progress: the share that is done, again and again.

    Raises:
        UnknownName: no such part, or norm.
        SpecError: numbers that make no training; a batch that is none, or holds NaN; a loss that is no number; a model
            that is frozen or does not run; out of memory.

    Source: Santurkar et al., arXiv:1805.11604, and what `normlab.probes` names.
    """
    started = time.perf_counter()
    require(model, nn.Module, "landscape takes a torch module")
    chosen = choose(only)
    check(steps, points, lr)
    check_seed(seed)
    if loss is not None and not callable(loss):
        raise SpecError(f"loss is a function of model and batch; got {came(loss)}")
    if against not in (None, NONE):
        read_target(against)  # a typo is told before the work
    inner = inside(model)
    if (reason := obstacle(inner)) is not None:
        raise SpecError(reason)
    settings = Settings(chosen, steps, points, float(lr), seed, _has_statistics(inner))
    home = next(chain(inner.parameters(), inner.buffers()), torch.empty(0)).device
    place = usable_device(device) or home
    notes: list[str] = []
    other = against if norm_sites(inner) else None
    if other is None and against is not None:
        notes.append("no layer of this model is known to normalize: there is nothing to compare")
    with _memory(), alone(norm_sites(inner)):
        batches = read_batches(inner, batch, loader, forward=forward, loss=loss, device=place, seed=seed)
        if batches.unused:
            notes.append(f"the labels given, {batches.unused}, were not used: pass loss=lambda model, batch: ...")
        if "ablation" in chosen and not batches.classified:
            notes.append("no ablation: without labels there is no accuracy")
        with few_threads(sum(p.numel() for p in inner.parameters()), batches.values):
            cost = estimate(inner, batches, settings)
            networks = 1 if other is None else 2
            if say is not None:
                say(cost.text(networks))
            tick = _ticker(cost.ticks * networks, progress)
            tracks = [_track(inner, None, batches, settings, tick, notes)]
            if other is not None:
                tracks.append(_track(inner, other, batches, settings, tick, notes))
    seconds = time.perf_counter() - started
    rest = tracks[1] if other is not None else None
    return LandscapeReport(_subject(inner), str(batches), settings, tracks[0], rest, tuple(notes), seconds)


def _track(
    model: nn.Module, norm: str | None, batches: Batches, s: Settings, tick: Callable[[], None], notes: list[str]
) -> Track:
    with sandbox(model, batches.device), _exchanged(model, norm, batches) as network:
        torch.manual_seed(s.seed)  # of dropout, and of what a new layer draws
        name = _kinds(model) if norm is None else ("no norm" if norm == NONE else norm)
        return Walk(network, batches, s, tick, notes).run(name)


@contextmanager
def _exchanged(model: nn.Module, norm: str | None, batches: Batches) -> Generator[nn.Module]:
    """The model with other norms, while it lasts."""
    if norm is None:
        yield model
        return
    torch.manual_seed(0)
    record = convert(model, Fixed if norm == NONE else norm)
    try:
        network = record.model
        if norm == NONE:
            with torch.no_grad():
                batches.loss_on(network.train(), 0)  # what it learns now is in buffers, which frozen_stats would undo
        yield network
    finally:
        record.revert()


@contextmanager
def _memory() -> Generator[None]:
    """What runs out of memory says so in one line."""
    try:
        yield
    except NormlabError:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise SpecError(f"{failure_text(error, 0).partition(' with')[0]}: give a smaller batch") from error


def _ticker(total: int, progress: Callable[[float], None] | None) -> Callable[[], None]:
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(min(1.0, done / max(total, 1)))

    return tick


def _has_statistics(model: nn.Module) -> bool:
    """Have the running statistics of the norms ever moved from 0 and 1?"""
    found = (site.module.get_buffer(name) for site, keeps in keepers(model) for name in keeps.statistics)
    return any(bool(((value != 0) & (value != 1)).any()) for value in found)


def _subject(model: nn.Module) -> str:
    return f"{type(model).__name__}: {_kinds(model, numbers=True)}"


def _kinds(model: nn.Module, *, numbers: bool = False) -> str:
    kinds = Counter(type(site.module).__name__ for site in norm_sites(model))
    if not kinds:
        return "no normalization layer"
    return ", ".join(f"{count} {kind}" if numbers else kind for kind, count in kinds.most_common())
