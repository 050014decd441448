"""Which layer or function of ours a case is about."""

from __future__ import annotations

from collections.abc import Iterator

from tests.golden import Case, convolutions
from tests.golden.claim import Claim
from tests.golden.claims import (
    attention,
    batch,
    beyond,
    equations,
    instance,
    probes,
    recalibration,
    recipes,
    refused,
    response,
    sam,
    sparsest,
    switch,
)
from tests.golden.comparison import Check

FAMILIES = (batch, instance, switch, response, attention, beyond)
LAYERS = {key: build for family in FAMILIES for key, build in family.LAYERS.items()}
CHECKS = {**recalibration.CHECKS, **recipes.CHECKS, **sparsest.CHECKS, **sam.CHECKS, **probes.CHECKS}
BY_ARRAYS = {**equations.CHECKS, **probes.BY_ARRAYS}


def find(case: Case) -> Claim | Check | None:
    """A layer with the case's parameters, or a function that compares; None where nothing claims the case."""
    if case.expect == "raises":
        return refused.find(case, LAYERS)
    if case.meta.get("init_only"):
        return recipes.scale if case.cls == "ScaleBatchNorm2d" else None
    for key in _keys(case):
        if key in CHECKS:
            return CHECKS[key]
        if key in LAYERS:
            return LAYERS[key](case)
    for arrays, check in BY_ARRAYS.items():
        if case.arrays.keys() >= set(arrays):
            return check
    return convolutions.claim(case)


def _keys(case: Case) -> Iterator[str]:
    """The class; where a formula has none its kind, and that without its last words, which tell a variant."""
    if case.cls:
        yield case.cls
        return
    words = case.kind.split("_")
    yield from ("_".join(words[:n]) for n in range(len(words), 0, -1))
