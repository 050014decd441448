"""Processes whose norms are of other types, or in other modes."""

from __future__ import annotations

from normlab.doctor.base import Evidence, rule
from normlab.doctor.case import Case
from normlab.doctor.layers import count, synced

Norms = dict[str, tuple[str, bool, bool]]


def told(case: Case) -> Norms:
    """Name → type, training flag, and are statistics synchronized?"""
    return {s.name: (type(s.module).__name__, s.module.training, synced(s)) for s in case.sites}


@rule(
    "NL007",
    "ranks-differ-in-modes",
    kind="distributed",
    level="error",
    why="a synchronized norm in training mode waits for all processes: where one has it in eval mode, or another layer "
    "there, all hang until the collective times out; without synchronization they train different networks",
    fix="normlab.convert and normlab.freeze in every process alike, before DDP",
    thread="open-mmlab/mmengine#1624",
    needs=("processes",),
    collect=told,
)
def ranks_modes(case: Case) -> Evidence | None:
    """Names, types and flags against those of process 0."""
    every: list[Norms] = case.told["NL007"]
    first = every[0]
    for rank, norms in enumerate(every):
        differ = [name for name in {**first, **norms} if first.get(name) != norms.get(name)]
        if differ:
            text = f"{count(len(differ), 'norm')} of process {rank} not as in process 0: {differ[0] or 'the model'} is "
            text += f"{_said(norms.get(differ[0]))} in process {rank}, and {_said(first.get(differ[0]))} in process 0"
            return Evidence(text, tuple(differ), {"norms": len(differ), "process": rank})
    return None


def _said(norm: tuple[str, bool, bool] | None) -> str:
    if norm is None:
        return "no norm"
    return f"{norm[0]} in {'training' if norm[1] else 'eval'} mode"
