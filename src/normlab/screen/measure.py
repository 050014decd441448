"""What is measured of a candidate before training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd  # pyright: ignore[reportPrivateUsage]

from normlab.inputs import Inputs, inputs_of, values_of
from normlab.probes import probe
from normlab.screen.pool import loss
from normlab.surgery import norm_sites, stats_mode
from normlab.surgery.statistics.kept import kept

PROBES = ("activation_variance", "mean_cosine", "stable_rank", "gradient_norm")
OF_EXAMPLES = ("mean_cosine", "stable_rank")
Profile = Mapping[str, tuple[float | None, ...]]
"""By probe, its values at each place, in order of depth; None where it was not measured."""
ROUNDING = 1e-6


class NotRun(Exception):
    """A candidate could not be measured; why, in one line."""


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass.

    Args:
        profile: at the outputs of convolutions and fully connected layers.
        loss: its value. said: what it is.
        same: all examples give the same output, to rounding.
    """

    profile: Profile
    loss: float
    said: str
    same: bool

    @property
    def cut(self) -> bool:
        """No gradient gets back beyond the last place."""
        variances, gradients = self.profile["activation_variance"], self.profile["gradient_norm"]
        called = [gradient for gradient, at in zip(gradients, variances, strict=True) if at is not None]
        return sum(bool(gradient) for gradient in called) < min(2, len(called))


@dataclass(frozen=True)
class Properties:
    """A candidate at initialisation, over all passes.

    Args:
        growth: decades, log10, from the activation variance at the first place to the largest.
        fading: decades from that at the second place down to the last but the output.
        explosion: decades from the gradient norm at the output up to the largest.
        vanishing: decades down to that at the first place.
        cosine: mean pairwise cosine, mean over the places that give anything but 0; NaN if none does.
        rank: stable rank, likewise, out of `examples`.
        noise: how far an output moves with the rest of its batch, in units of the spread of outputs; None if unknown.
        finite: neither the loss nor a gradient was NaN or infinite.
        dead: why nothing can be learned: no signal gets through, or no gradient back; empty where they do.
        profile: medians at each place.
    """

    growth: float
    fading: float
    explosion: float
    vanishing: float
    cosine: float
    rank: float
    examples: int
    noise: float | None
    finite: bool
    dead: str
    profile: Profile


def places(model: nn.Module) -> list[str]:
    """Convolutions and fully connected layers, but for those inside norms."""
    of_norms = {id(part) for site in norm_sites(model) for part in site.module.modules()}
    every = ((name, module) for name, module in model.named_modules() if id(module) not in of_norms)
    return [name for name, module in every if isinstance(module, (_ConvNd, nn.Linear))]


def run(model: nn.Module, where: Sequence[str], batch: Inputs, device: torch.device) -> Pass:
    """One pass in training mode; gradients of before are forgotten.

    Raises:
        NotRun: nothing in the outputs has a gradient, or none of the places is called; whatever the model raises.
    """
    model.train().zero_grad(set_to_none=True)
    with probe(model, PROBES, where=list(where)) as found, torch.enable_grad():
        outputs = batch.call(model, device)
        total, said = loss(outputs, batch.batch, inputs_of(model))
        if total is None or not total.requires_grad:
            raise NotRun("no gradient: nothing that it gives depends, differentiably, on what it could learn")
        total.backward()
    model.zero_grad(set_to_none=True)
    values = {name: tuple(found.last.get(f"norm/{at}/{name}") for at in where) for name in PROBES}
    if not any(value is not None for value in values["activation_variance"]):
        raise NotRun(f"none of its {len(where)} convolutions and fully connected layers is called")
    return Pass(values, total.item(), said, _same(outputs, batch.size))


def _same(outputs: Any, size: int) -> bool:
    """Whether all examples give the same; not where the outputs are not of several examples."""
    values = [value.detach() for value in values_of(outputs) if value.requires_grad and value.dim()]
    rows = [value.reshape(size, -1).float() for value in values if len(value) == size > 1 and value.numel()]
    if not rows:
        return False
    flat = torch.cat(rows, 1)
    return bool((flat - flat[0]).abs().max() <= ROUNDING * flat.abs().max())


@torch.no_grad()
def batch_noise(model: nn.Module, whole: Inputs, size: int, device: torch.device, parts: int = 4) -> float:
    """How far outputs move when an example is normalized in a batch of `size` instead of the whole: root mean square.

    As `probes.batch_dependence`, which halves the batch: all else is in eval mode, and nothing is remembered.

    Returns:
        in units of the spread of the outputs: 0 where examples do not see each other, about 1 where an output tells
        nothing of its example.
    """
    if not any(kept(site.module) is not None for site in norm_sites(model)):
        return 0.0
    model.eval()
    with stats_mode(model, "batch"):
        together = _flat(whole, model, device)
        starts = range(0, whole.size - size + 1, size)[:parts]
        apart = torch.cat([_flat(whole.first(size, start), model, device) for start in starts])
    scale = (together - together.mean(0)).square().mean().sqrt()
    moved = (apart - together[: len(apart)]).square().mean().sqrt()
    return 0.0 if not moved else float(moved / scale)


def _flat(batch: Inputs, model: nn.Module, device: torch.device) -> Tensor:
    return torch.cat([value.reshape(batch.size, -1).double() for value in values_of(batch.call(model, device))], 1)


def summarise(passes: Sequence[Pass], alike: Sequence[Pass], examples: int, noises: Sequence[float]) -> Properties:
    """The properties of a candidate from its passes.

    Args:
        alike: passes to tell from whether examples look alike, with so many of them in a batch.
    """
    gradients = [value for one in passes for value in one.profile["gradient_norm"] if value is not None]
    losses = [one.loss for one in passes]
    summaries = [_summary(one.profile) for one in passes]
    growth, fading, explosion, vanishing = (_mean(values) for values in zip(*summaries, strict=True))
    cosines, ranks = ([_mean(_nonzero(one.profile, name)) for one in alike] for name in OF_EXAMPLES)
    return Properties(
        growth=growth,
        fading=fading,
        explosion=explosion,
        vanishing=vanishing,
        cosine=_mean(cosines),
        rank=_mean(ranks),
        examples=examples,
        noise=fmean(noises) if noises else None,
        finite=all(map(math.isfinite, gradients + losses)),
        dead=_dead(passes, alike),
        profile={
            name: _medians([one.profile[name] for one in (alike if name in OF_EXAMPLES else passes)]) for name in PROBES
        },
    )


def _dead(passes: Sequence[Pass], alike: Sequence[Pass]) -> str:
    """Why nothing can be learned, in at least half of the passes: a batch may hold the same example twice."""
    silent = [one.same or not any(_nonzero(one.profile, "stable_rank")) for one in alike]
    for found, text in (
        (silent, "no signal: every example gives the same output"),
        ([one.cut for one in passes], "no gradient gets back to the layers before the last"),
    ):
        if 2 * sum(found) >= len(found):
            return text + f", in {sum(found)} of {len(found)} passes" * (not all(found))
    return ""


def _nonzero(profile: Profile, name: str) -> list[float | None]:
    """Values at the places whose outputs are not all 0: of those a cosine and a rank of 0 say nothing."""
    ranks = profile["stable_rank"]
    return [value for value, rank in zip(profile[name], ranks, strict=True) if rank is not None and rank != 0]


def _summary(profile: Profile) -> tuple[float, ...]:
    variance, gradient = (_decades(profile[name]) for name in ("activation_variance", "gradient_norm"))
    inside = variance[:-1] if len(variance) > 1 else variance
    return (
        max(variance) - variance[0],
        inside[min(1, len(inside) - 1)] - inside[-1],  # the first place sees the data as it came
        max(gradient) - gradient[-1],
        gradient[-1] - gradient[0],
    )


def _decades(values: Iterable[float | None]) -> list[float]:
    """log10, without zeros: branches that start at 0 pass nothing on yet."""
    found = [math.log10(value) for value in values if value is not None and 0 < value < math.inf]
    return found or [0.0]


def _mean(values: Iterable[float | None]) -> float:
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return fmean(finite) if finite else math.nan


def _medians(profiles: Sequence[tuple[float | None, ...]]) -> tuple[float | None, ...]:
    columns = ([value for value in values if value is not None] for values in zip(*profiles, strict=True))
    return tuple(median(values) if values else None for values in columns)


def as_json(properties: Properties) -> dict[str, Any]:
    """Plain numbers, None for what is not finite."""
    found = {key: _plain(value) for key, value in vars(properties).items() if key != "profile"}
    return found | {"profile": {name: [_plain(v) for v in values] for name, values in properties.profile.items()}}


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
