"""A study as written down: frozen pydantic models; what concerns a single run is in `job`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from normlab.errors import SpecError, UnknownName
from normlab.seeding import SeedScheme
from normlab.study.job import (
    METRICS,
    ArmSpec,
    Count,
    DataSpec,
    JsonValue,
    ModelSpec,
    NonNegative,
    Positive,
    Strict,
    TrainSpec,
)
from normlab.study.point import Grid
from normlab.study.published import PublishedSpec

MOST_SEEDS = 10_000
EARLIEST_LOOK = 4  # unless another is asked for: three differences say too little
MOST_LOOKS = 20  # that are paid for; the bounds of each are simulated


class FamilySpec(Strict):
    """`[family]`: the arms whose comparisons are corrected together, at each grid point; default all of them."""

    arms: list[str] | None = None


class AnalysisSpec(Strict):
    """`[analysis]`: how arms are compared; see `stats.Settings`."""

    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    alternative: Literal["greater", "two-sided"] = "greater"
    better: Literal["higher", "lower"] = "higher"
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    equivalence: Positive | None = None
    power: Annotated[float, Field(gt=0, lt=1)] = 0.8


class StoppingSpec(Strict):
    """`[stopping]`: when to stop adding seeds; "fixed" runs all of them.

    Attributes:
        rule: "obrien_fleming" and "pocock" look at `looks` only; "anytime" after every seed.
        looks: numbers of finished seeds at which the study is looked at; the last one is all seeds. Unless given, a
            third of the seeds, two thirds, and all, but none before the fourth.
        futility: an arm whose chance to be found better by the last look, given the data so far, falls below this is
            given up; 0 = never. Giving up does not raise the chance of a false "better".
    """

    rule: Literal["fixed", "obrien_fleming", "pocock", "anytime"] = "fixed"
    looks: list[Annotated[int, Field(ge=2)]] | None = None
    futility: Annotated[float, Field(ge=0, lt=0.5)] = 0.0

    @model_validator(mode="after")
    def _fit(self) -> StoppingSpec:
        if self.looks is not None and self.rule in ("fixed", "anytime"):
            when = "looks at the end only" if self.rule == "fixed" else "looks after every seed"
            raise ValueError(f'rule "{self.rule}" {when}: leave looks out, or take "obrien_fleming" or "pocock"')
        if self.looks is not None and (not self.looks or sorted(set(self.looks)) != self.looks):
            raise ValueError(f"looks {self.looks} should rise, as in [5, 10, 15]")
        if self.looks is not None and len(self.looks) > MOST_LOOKS:
            raise ValueError(f'{len(self.looks)} looks given; {MOST_LOOKS} are the most, and "anytime" looks always')
        if self.futility and self.rule == "fixed":
            raise ValueError('rule "fixed" runs all seeds, so futility has no effect; choose another rule')
        return self

    def looks_of(self, seeds: int) -> tuple[int, ...]:
        """The numbers of pairs at which a study of so many seeds is looked at.

        Raises:
            ValueError: the last look is not the last seed.
        """
        if self.rule == "fixed":
            return (seeds,)
        if self.rule == "anytime":
            return tuple(range(2, seeds + 1))
        thirds = [n for n in (round(seeds / 3), round(2 * seeds / 3)) if EARLIEST_LOOK <= n < seeds]
        looks = self.looks or [*thirds, seeds]
        if looks[-1] != seeds:
            raise ValueError(f"stopping.looks {looks} should end with the number of seeds, {seeds}")
        return tuple(dict.fromkeys(looks))


class ResourcesSpec(Strict):
    """`[resources]`: what one run takes; no part of its hash.

    Attributes:
        cpus: cores, and torch threads, of a process.
        gpus: of a process; 0.25 puts four runs on one.
        memory: GiB of a run, for Ray to place it by.
        devices: processes of one run, which share each batch (DDP).
    """

    cpus: Count = 1
    gpus: NonNegative = 0.0
    memory: Positive | None = None
    devices: Count = 1


class Protocol(Strict):
    """What every study has, whatever trains the networks.

    Attributes:
        seeds: how many (labelled 1, 2, ...) or which.
        seed_scheme: "plain" uses the label as it is, "md5" the paper's rule.
    """

    name: str
    question: str = ""
    metric: str = "test_accuracy"
    baseline: str
    seeds: list[int]
    seed_scheme: SeedScheme = "plain"
    family: FamilySpec = FamilySpec()
    analysis: AnalysisSpec = AnalysisSpec()
    stopping: StoppingSpec = StoppingSpec()
    resources: ResourcesSpec = ResourcesSpec()
    published: PublishedSpec | None = None

    @field_validator("name")
    @classmethod
    def _names_a_directory(cls, name: str) -> str:
        if not re.fullmatch(r"[\w][\w.-]*", name):
            raise ValueError("the name becomes a directory: letters, digits, '.', '_' and '-' only")
        return name

    @field_validator("seeds", mode="before")
    @classmethod
    def _labels(cls, seeds: object) -> list[int]:
        """A number of seeds means 1, 2, ..., that number."""
        labels = list(range(1, min(seeds, MOST_SEEDS + 1) + 1)) if type(seeds) is int else seeds
        if not isinstance(labels, list) or any(type(label) is not int or label < 0 for label in labels):
            raise ValueError("should be a number of seeds or a list of whole numbers from 0, as in 15 or [1, 2, 3]")
        if len(labels) < 2:
            raise ValueError("a paired comparison needs at least 2 seeds; 15 is the paper's number")
        if len(set(labels)) < len(labels):
            raise ValueError("a seed is listed twice")
        if len(labels) > MOST_SEEDS:
            raise ValueError(f"{MOST_SEEDS:,} seeds are the most")
        return labels

    @model_validator(mode="after")
    def _looks_fit(self) -> Protocol:
        self.stopping.looks_of(len(self.seeds))
        return self

    def check_arms(self, arms: Mapping[str, Any]) -> None:
        """Raise SpecError where baseline or family name no arm, or there is nothing to compare."""
        if self.baseline not in arms:
            raise UnknownName("arm", self.baseline, arms, where="baseline: ")
        if len(arms) < 2:
            raise SpecError(f"arms: only {self.baseline!r}; a study compares at least one other arm with it")
        if self.family.arms is not None and len(set(self.family.arms)) != max(1, len(self.family.arms)):
            raise SpecError(f"family.arms: {self.family.arms} should name one arm or more, each once")
        for arm in self.family.arms or ():
            if arm not in arms or arm == self.baseline:
                raise UnknownName("arm to compare", arm, set(arms) - {self.baseline}, where="family.arms: ")


class StudySpec(Protocol):
    """A study file.

    Attributes:
        function: carries out the runs instead of the built-in trainer, "file.py:function", the file beside the study
            file, or "package.module:function"; it gets each arm's `TrainJob` as plain data, and may use `Trainer`.
    """

    function: str | None = None
    data: DataSpec
    model: ModelSpec
    train: TrainSpec
    arms: dict[str, ArmSpec]
    grid: Grid = Field(default_factory=dict)

    @field_validator("arms", mode="before")
    @classmethod
    def _recipe_alone(cls, arms: object) -> object:
        """An arm may be written as its recipe: `base = "baseline"`."""
        if not isinstance(arms, dict):
            return arms
        for name, arm in arms.items():
            if not str(name).strip():
                raise ValueError("an arm needs a name")
            if not isinstance(arm, (str, dict)):
                raise ValueError(f"{name!r} should be a recipe, as text, or a table with `recipe = ...`")
        return {name: {"recipe": arm} if isinstance(arm, str) else arm for name, arm in arms.items()}

    @model_validator(mode="after")
    def _consistent(self) -> StudySpec:
        self.check_arms(self.arms)
        if self.function is None:
            self._check_metric()
        if self.published is not None:
            self.published.check(self.arms, self.grid)
        return self

    def _check_metric(self) -> None:
        if self.metric not in METRICS:
            raise UnknownName("metric", self.metric, METRICS)
        if self.metric.endswith("loss") and self.analysis.better == "higher":
            raise SpecError(f"metric = {self.metric!r} is better when it is lower: write analysis.better = 'lower'")


class OwnStudySpec(Protocol):
    """A study file with a training function of one's own.

    Attributes:
        train: "file.py:function", the file beside the study file, or "package.module:function"; see `Study`.
        arms: name → what the function gets to tell the arms apart.
        common: what every arm that is a table gets too; the arm's own keys come before these.
        grid: keys of these, when they are tables, that all arms get.
    """

    train: str
    arms: dict[str, JsonValue]
    common: dict[str, JsonValue] = Field(default_factory=dict)
    grid: Grid = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> OwnStudySpec:
        self.check_arms(self.arms)
        plain = [name for name, arm in self.arms.items() if not isinstance(arm, dict)]
        if (self.grid or self.common) and plain:
            giver = "[grid]" if self.grid else "[common]"
            raise ValueError(f"arms.{plain[0]} should be a table, since {giver} gives every arm its keys")
        if self.published is not None:
            self.published.check(self.arms, self.grid)
        return self
