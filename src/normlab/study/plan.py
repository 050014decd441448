"""Study → runs: every arm at every seed and grid point, each run with the hash of all that determines its result."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from normlab.errors import SpecError, UnknownName
from normlab.seeding import resolve_seed
from normlab.study.job import ArmSpec, TrainJob, as_json
from normlab.study.point import Point, as_table
from normlab.study.reading import merge, validate
from normlab.study.spec import OwnStudySpec, Protocol, StudySpec
from normlab.study.training.check import canonical_job

ENGINE = 1  # part of every hash; raised when the same job would give other numbers than before


@dataclass(frozen=True)
class RunSpec:
    """One training run.

    Attributes:
        arm: its name in the study; no part of the hash, so an arm may be renamed.
        point: the grid values it belongs to, `(("train.lr", 0.1),)`.
        seed: as people write it; `stream_seed` feeds the streams.
        function: identity of the training function.
        job: what the training function gets as `arm`; plain JSON.
    """

    arm: str
    point: Point
    seed: int
    stream_seed: int
    function: str
    job: Any
    key: str = field(init=False)

    def __post_init__(self) -> None:
        content = {"engine": ENGINE, "function": self.function, "job": self.job, "seed": self.stream_seed}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        object.__setattr__(self, "key", hashlib.sha256(text.encode()).hexdigest()[:20])


def plan(study: StudySpec, function: str) -> tuple[RunSpec, ...]:
    """Every run of a study file, seed by seed, so that whatever is finished is complete and paired.

    Raises:
        SpecError: a recipe, model, dataset or grid key that does not exist or cannot take its value.
    """
    jobs = {point: {arm: resolve(study, arm, point) for arm in study.arms} for point in _points(study.grid)}
    return schedule(study, function, jobs)


def own_jobs(study: OwnStudySpec) -> dict[Point, dict[str, Any]]:
    """What a training function of one's own gets, by grid point and arm."""
    return {
        point: {name: _laid_over(study.common, arm, point) for name, arm in study.arms.items()}
        for point in _points(study.grid)
    }


def _laid_over(common: Mapping[str, Any], arm: Any, point: Point) -> Any:
    """The arm over what is common to all, and the grid's values over both; an arm that is no table stays as it is."""
    if not isinstance(arm, dict):
        return arm
    tree = deepcopy(dict(common))
    merge(tree, arm)
    return {**tree, **as_table(point)}


def _points(grid: Mapping[str, list[Any]]) -> list[Point]:
    return [tuple(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def schedule(protocol: Protocol, function: str, jobs: Mapping[Point, Mapping[str, Any]]) -> tuple[RunSpec, ...]:
    """Arms × seeds at each point: all runs of the first seed, then of the second, and so on."""
    for arms in jobs.values():
        _refuse_twins(arms)
    return tuple(
        RunSpec(arm, point, seed, resolve_seed(seed, protocol.seed_scheme), function, job)
        for seed in protocol.seeds
        for point, arms in jobs.items()
        for arm, job in arms.items()
    )


def resolve(study: StudySpec, arm: str, point: Point) -> dict[str, Any]:
    """The job of one arm at one grid point: defaults written out, names checked."""
    tree = study.model_dump(include={"data", "model", "train"})
    for key, value in as_table(point).items():
        merge(tree, _nested(key, value, tree))
    where = f"arms.{arm}: "
    chosen: ArmSpec = study.arms[arm]
    merge(tree["train"], chosen.train)
    if chosen.optimizer is not None:
        tree["train"]["optimizer"] = chosen.optimizer
    job = validate(TrainJob, {**tree, "recipe": chosen.recipe, "norm": chosen.norm}, where=where)
    try:
        return as_json(canonical_job(job))
    except SpecError as error:
        raise SpecError(f"{where}{error}") from None


def _nested(key: str, value: Any, tree: Mapping[str, Any]) -> dict[str, Any]:
    """`("train.lr", 0.1)` → `{"train": {"lr": 0.1}}`, for keys that exist."""
    table, _, name = key.partition(".")
    known = [f"{t}.{n}" for t, names in tree.items() for n in names]
    if key not in known:
        raise UnknownName("key to vary", key, known, where="grid: ")
    return {table: {name: value}}


def _refuse_twins(arms: Mapping[str, Any]) -> None:
    """Two arms that are the same would differ by nothing at every seed."""
    names: dict[str, str] = {}
    for arm, job in arms.items():
        text = json.dumps(job, sort_keys=True)
        if text in names:
            raise SpecError(f"arms: {names[text]!r} and {arm!r} are the same; comparing them says nothing")
        names[text] = arm
