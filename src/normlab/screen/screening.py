"""Ranks normalizers for a model and a batch size before training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from normlab.errors import SpecError, came
from normlab.inputs import Forward, few_threads, usable_device
from normlab.screen.agreement import Agreement, shipped
from normlab.screen.bench import Bench, NotRun
from normlab.screen.candidates import DEFAULT, check
from normlab.screen.judge import Verdict, reason, score, verdict
from normlab.screen.measure import Properties, as_json
from normlab.screen.pool import LEAST, read_pool
from normlab.seeding import Streams
from normlab.surgery.wrapped import unwrap

Progress = Callable[[int, int, str], None]
"""Gets candidates done, candidates in all, and the name of the next; at the end, none."""


@dataclass(frozen=True)
class Ranked:
    """A candidate that could be measured.

    Args:
        norm: as it was asked for. score: from 0 to 100, higher is better. reason: of the verdict, in words.
    """

    norm: str
    score: float
    verdict: Verdict
    reason: str
    properties: Properties


@dataclass(frozen=True)
class Refused:
    """A candidate that could not be, and why."""

    norm: str
    reason: str


@dataclass(frozen=True)
class Screening:
    """Normalizers for a model, best first.

    Args:
        refused: those that cannot be put into the model, or do not run at this batch size.
        subject: model and data in words. loss: what was differentiated. notes: what a reader should know.
        agreement: how well such rankings have agreed with trained accuracy.
    """

    ranked: tuple[Ranked, ...]
    refused: tuple[Refused, ...]
    subject: str
    loss: str
    batch_size: int
    seeds: int
    batches: int
    notes: tuple[str, ...]
    agreement: Agreement

    @property
    def healthy(self) -> tuple[str, ...]:
        """Names of the candidates without anything against them, best first."""
        return tuple(one.norm for one in self.ranked if one.verdict == "healthy")

    @property
    def ranks(self) -> tuple[int, ...]:
        """From 1, of each of `ranked`; candidates with the same score share one."""
        return tuple(1 + sum(other.score > one.score for other in self.ranked) for one in self.ranked)

    def as_json(self) -> dict[str, Any]:
        """Plain data, with the profiles by depth."""
        ranked = [
            {"rank": rank, "norm": one.norm, "score": one.score, "verdict": one.verdict, "reason": one.reason}
            | {"properties": as_json(one.properties)}
            for rank, one in zip(self.ranks, self.ranked, strict=True)
        ]
        plain = {key: getattr(self, key) for key in ("subject", "loss", "batch_size", "seeds", "batches")}
        refused = [{"norm": one.norm, "reason": one.reason} for one in self.refused]
        rest = {"notes": list(self.notes), "agreement": self.agreement.as_json()}
        return plain | {"ranked": ranked, "refused": refused} | rest

    def __str__(self) -> str:
        from normlab.screen.text import lines

        return "\n".join(line for line, _ in lines(self, 100))


def screen(
    model: nn.Module | Callable[[], nn.Module],
    data: Any,
    *,
    batch_size: int = 32,
    norms: Sequence[str] = DEFAULT,
    seeds: int = 3,
    batches: int = 3,
    forward: Forward | None = None,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> Screening:
    """Rank normalizers by what they do to signals and gradients before the first step of training.

    Each is put into a copy of the model, whose weights are drawn anew, the same for all candidates of a seed (see
    `candidates.put`), and run forward and backward in training mode on some batches. Measured are activation variance,
    mean pairwise cosine, stable rank and gradient norm at the outputs of convolutions and fully connected layers, by
    the probes of these names; and how much an output depends on the rest of its batch. The model itself is not touched.

    Args:
        model: it, or a function that makes it, which is called once for each seed.
        data: a batch of at least `batch_size` examples, in tensors, tuples or dicts; what gives batches; or "3x32x32",
            for random numbers of that shape. Of a tuple, the last are labels if the model does not take them: with
            classes of the output, in whole numbers, the loss is cross-entropy, else one is made up; the result says
            which it was.
        norms: specs as `convert` takes them, for norms and convolutions; "none" leaves scale and shift alone.
        seeds, batches: initial values, and batches for each.
        forward: of model and batch, where the above does not fit.
        device: where the copies are run; None is where the model is.
        progress: is told before each candidate, and at the end.

    Raises:
        UnknownName: no such normalizer.
        SpecError: no model, no data, too few examples, examples that are all the same, an argument of another kind, or
            none of the candidates can be measured, with the reason.
    """
    asked = _specs(norms)
    chosen = list(dict.fromkeys(asked))
    _check_counts(batch_size=batch_size, seeds=seeds, batches=batches)
    for name, function in (("forward", forward), ("progress", progress)):
        if function is not None and not callable(function):
            raise SpecError(f"{name}={came(function)} should be a function")
    bench = Bench(model, batch_size, seeds, batches, usable_device(device))
    pool = read_pool(bench.make(0), data, max(LEAST, 2 * batch_size, batches * batch_size), forward)
    pool.batch(batch_size, Streams(0), 0)
    ranked: list[Ranked] = []
    refused: list[Refused] = []
    with few_threads(bench.parameters, bench.values(pool)):
        for done, spec in enumerate(chosen):
            if progress is not None:
                progress(done, len(chosen), spec)
            try:
                found = bench.examine(spec, pool)
                ranked.append(Ranked(spec, score(found), verdict(found), reason(found), found))
            except NotRun as why:
                refused.append(Refused(spec, str(why)))
    if progress is not None:
        progress(len(chosen), len(chosen), "")
    if not ranked:
        raise SpecError(
            f"none of the {len(chosen)} candidates could be measured. {refused[0].norm}: {refused[0].reason}"
        )
    order = {one.norm: place for place, one in enumerate(ranked)}
    return Screening(
        ranked=tuple(sorted(ranked, key=lambda one: (-one.score, order[one.norm]))),
        refused=tuple(refused),
        subject=f"{type(unwrap(bench.make(0))).__name__}, batches of {batch_size} from {pool.inputs.source}",
        loss=bench.loss,
        batch_size=batch_size,
        seeds=seeds,
        batches=batches,
        notes=(*bench.notes(pool), *_repeated(asked)),
        agreement=shipped(),
    )


def _specs(norms: Any) -> list[str]:
    if isinstance(norms, str) or not isinstance(norms, Iterable):
        raise SpecError(f'norms={came(norms)} should be a list of specs: ["batch", "group(num_groups=8)"]')
    found = [check(spec) for spec in cast("Iterable[Any]", norms)]
    if not found:
        raise SpecError('norms is empty: name a normalizer, ["batch"], or leave it out for the list that comes along')
    return found


def _repeated(asked: list[str]) -> Iterator[str]:
    twice = [spec for spec, count in Counter(asked).items() if count > 1]
    if twice:
        yield f"named more than once, screened once: {', '.join(twice)}"


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        if type(value) is not int or value < 1:
            raise SpecError(f"{name}={came(value)} should be a whole number of at least 1")
