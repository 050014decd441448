"""Chooses by which statistics a model normalizes, for a while: for adaptation at test time."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from normlab.errors import SpecError, UnknownName, require
from normlab.layers import AttentiveNorm, EvoNormB0
from normlab.layers.switch import Parts
from normlab.surgery.sites import Site, norm_sites
from normlab.surgery.statistics.borrow import (
    Forward,
    by_batch,
    changed,
    input_of,
    label,
    require_shapes,
    through,
    trusted,
)
from normlab.surgery.statistics.conventions import stored_ddof
from normlab.surgery.statistics.kept import buffers_of, effective, kept

MODES = ("batch", "running", "mix(share)")


@contextmanager
def stats_mode(model: nn.Module, mode: str) -> Generator[None]:
    """While it lasts, norms with running statistics normalize by these; nothing that they remember moves.

    "batch": by the batch, as in training, and differentiably; but without what else a layer does in training (noise,
        steps of a whitening matrix, selection of a norm, the corrections of batch renormalization).
    "running": by the running statistics, as in eval mode.
    "mix(a)": by (1 - a) · running + a · batch, 0 <= a <= 1: what the running statistics would be after this batch, with
        momentum a. As such they are constants to autograd, and the variance of the batch is the one the layer stores,
        unbiased as a rule. Each layer runs twice.

    All other modules stay in their mode, and calls of `train` and `eval` inside change nothing for the norms. A model
    that was compiled runs uncompiled. May be nested; the innermost counts.

    Args:
        model: wrapped ones too.

    Raises:
        UnknownName: another mode.
        SpecError: a share that is none; no layer that keeps running statistics; one that cannot do what is asked: a
            frozen one with "batch", one that keeps no statistics with "running". On a call with "mix": a layer of
            another author whose `momentum` is not the weight of the newest batch.

    Source: Schneider et al., arXiv:2006.16971 (mix, with a = n / (N + n)); Wang et al., arXiv:2006.10726 (batch).
    """
    share = _share(mode)
    require_shapes(model)
    sites = [site for site in norm_sites(model) if kept(site.module) is not None]
    _check(model, mode, sites)
    around = {"batch": _by_batch, "running": _by_running}.get(mode, _mixing(share))
    with through(sites, around):
        yield


def _share(mode: str) -> float:
    require(mode, str, 'stats_mode takes "batch", "running" or "mix(0.3)"')
    given = re.fullmatch(r"\s*mix\((.*)\)\s*", mode)
    if given is None:
        if mode not in ("batch", "running"):
            raise UnknownName("statistics", mode, MODES)
        return 0.0
    try:
        share = float(given[1])
    except ValueError:
        share = float("nan")
    if not 0 <= share <= 1:
        raise SpecError(f"{mode!r} should be mix(a) with a number a from 0, the running statistics, to 1, the batch")
    return share


def _check(model: nn.Module, mode: str, sites: list[Site]) -> None:
    every = norm_sites(model)
    others = [site for site in every if site.kind == "batch" and kept(site.module) is None]
    frozen = [site for site in others if site.frozen]
    without = [site for site in others if not site.frozen and _by_batch_always(site.module)]
    if frozen and mode != "running":
        raise SpecError(f"{label(frozen[0])} is frozen and has no batch statistics: convert it to BatchNorm first")
    if without and mode != "batch":
        raise SpecError(f"{label(without[0])} keeps no running statistics, so it cannot normalize by them")
    if not sites and not others:
        kinds = ", ".join(sorted({type(site.module).__name__ for site in every})) or "no normalization layer"
        raise SpecError(f"no layer has batch or running statistics to choose from: the model has {kinds}")


def _by_batch_always(module: nn.Module) -> bool:
    """Does a batch norm without running statistics use those of the batch, in eval mode too?"""
    unused = (
        (isinstance(module, Parts) and not module.using_bn)
        or (isinstance(module, AttentiveNorm) and module.backbone != "batch")
        or (isinstance(module, EvoNormB0) and module.v is None)
    )
    return not unused and not (hasattr(module, "apply_act") and not module.apply_act)


def _by_batch(site: Site, forward: Forward, *args: Any, **kwargs: Any) -> Any:
    with by_batch(site):
        return forward(*args, **kwargs)


def _by_running(site: Site, forward: Forward, *args: Any, **kwargs: Any) -> Any:
    with changed(site.module, {"training": False}):
        return forward(*args, **kwargs)


def _mixing(share: float) -> Forward:
    known: set[str] = set()

    def mixed(site: Site, forward: Forward, *args: Any, **kwargs: Any) -> Any:
        module = site.module
        keeps, counter = kept(module), getattr(module, "num_batches_tracked", None)
        assert keeps is not None
        if site.name not in known:
            stored_ddof(site, keeps, forward, args, kwargs)  # refuses a `momentum` that is another weight
            known.add(site.name)
        values = effective(keeps, buffers_of(module, keeps), counter)
        whole = {"ghost_size": len(input_of(site, args, kwargs))}  # one ghost batch, of the weight that was asked for
        with by_batch(site, share, **whole):
            with torch.no_grad():
                for name, buffer in buffers_of(module, keeps).items():
                    buffer.copy_(values[name])
                forward(*_unshared(site, args), **kwargs)
            with changed(module, {"training": False}):
                return forward(*args, **kwargs)

    return mixed


def _unshared(site: Site, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments, as copies where the layer might write to them."""
    if trusted(site.module):
        return args
    return tuple(value.clone() if isinstance(value, Tensor) else value for value in args)
