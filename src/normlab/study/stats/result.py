"""What goes into a comparison and what comes out: plain data, NumPy arrays in frozen dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from normlab.study.stats.stopping.decide import Course
    from normlab.study.stats.stopping.design import Design

Floats = NDArray[np.float64]
Interval = tuple[float, float]
Verdict = Literal["better", "worse", "equivalent", "unresolved", "no data"]


@dataclass(frozen=True)
class Scores:
    """One metric for every arm and seed.

    Attributes:
        metric: its name, `test_accuracy`.
        arms: names, in the order of the study.
        seeds: labels of the pairs, in order.
        values: [arms, seeds], in the unit of the metric; NaN = no result (missing or failed), or one that diverged and
            names no value: it counts as the worst of the two arms compared.
        unit: shown behind numbers; "%" or "".
        diverged: (arm, seed) whose training became non-finite; `values` holds what they are counted as, or NaN.
        failed: (arm, seed) whose run raised; `values` holds NaN.
        diverged_as: what diverged runs are counted as, in words, `chance level, 10 %`.
        correct: arm → [seeds, examples] bool, which test examples each run got right; NaN rows of
            `values` hold False and must not be read. None where it is not known.
        unused: (arm, seed) that a stopping rule does without, or has not looked at yet; `values` holds NaN.
        seeded: arms whose runs are known to differ by seed, in another metric, say: equal values are no fault then.
    """

    metric: str
    arms: tuple[str, ...]
    seeds: tuple[str, ...]
    values: Floats
    unit: str = ""
    diverged: frozenset[tuple[str, str]] = frozenset()
    failed: frozenset[tuple[str, str]] = frozenset()
    diverged_as: str = ""
    correct: Mapping[str, NDArray[np.bool_]] | None = None
    unused: frozenset[tuple[str, str]] = frozenset()
    seeded: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Settings:
    """How to compare; everything here is said in the report.

    Attributes:
        baseline: the control arm.
        alpha: level of the family-wise test, one-sided unless `alternative` says otherwise.
        alternative: "greater" tests treatment > control; "two-sided" both directions.
        better: whether high or low values of the metric are good.
        confidence: of all intervals, which are two-sided whatever the test is.
        equivalence: margin of the TOST in the unit of the metric, or None: equivalence is not tested.
        power: power at which the seeds still needed are computed.
        family: the arms corrected together by Holm; None = all but the baseline.
        resamples: of each bootstrap.
        seed: of all bootstraps; equal seeds give equal intervals.
    """

    baseline: str
    alpha: float = 0.05
    alternative: Literal["greater", "two-sided"] = "greater"
    better: Literal["higher", "lower"] = "higher"
    confidence: float = 0.95
    equivalence: float | None = None
    power: float = 0.8
    family: tuple[str, ...] | None = None
    resamples: int = 2000
    seed: int = 0


@dataclass(frozen=True)
class TestSet:
    """Uncertainty that comes from the test examples, by a crossed (seed × example) bootstrap.

    Attributes:
        examples: how many.
        disagreement: share of examples on which treatment and control differ, mean over seeds.
        se_examples: SD of the mean difference over draws of the test set alone, in the unit of the metric.
        se_total: SD over draws of both seeds and test examples.
        interval: of the mean difference, seeds and examples both drawn again.
    """

    examples: int
    disagreement: float
    se_examples: float
    se_total: float
    interval: Interval


@dataclass(frozen=True)
class Stopped:
    """What a stopping rule made of one comparison.

    Attributes:
        course: the looks made of it, and what they decided.
        bounds: [looks of the study] size of t from which on it is decided, at its level.
        estimate: median-unbiased where `method` is "stage-wise", else the mean difference; in the unit of the metric.
        p_stagewise: one-sided p by stage-wise ordering, of this comparison alone; None where there is no such.
        method: how the interval of the comparison was found.
    """

    course: Course
    bounds: tuple[float, ...]
    estimate: float
    p_stagewise: float | None
    method: str


@dataclass(frozen=True)
class Comparison:
    """One treatment against the control, paired by seed.

    Differences are treatment − control in the unit of the metric, so their sign is that of the
    metric even where low is good; `d_z`, `p_*`, `improvement` and the verdict take `Settings.better` into account
    (positive d_z = better).
    """

    arm: str
    seeds: tuple[str, ...]  # pairs used
    treatment: Floats  # [pairs]
    control: Floats  # [pairs]
    mean: float
    sd: float
    delta: float
    interval: Interval  # paired t
    interval_bootstrap_t: Interval
    interval_signflip: Interval
    d_z: float  # Hedges-corrected
    d_z_interval: Interval  # noncentral t
    improvement: float  # P(treatment better on a paired seed), ties count half
    improvement_interval: Interval
    error_reduction: float | None  # relative, of 100 - metric where unit is "%"
    sd_ratio: float  # sd of treatment / sd of control
    sd_ratio_interval: Interval  # Pitman-Morgan
    sd_ratio_p: float
    rho: float  # correlation of treatment and control over seeds
    t: float
    p_t: float
    p_signflip: float
    p_wilcoxon: float
    p_holm: float  # of p_signflip, over the family, direction "better" (or two-sided)
    p_holm_worse: float  # the same, direction "worse"; equal to p_holm where two-sided
    p_equivalent: float | None  # TOST, Holm over the family
    verdict: Verdict
    seeds_needed: int | None  # in all, to resolve at `Settings.power`, where unresolved; None = more than 100,000
    test_set: TestSet | None
    diverged: tuple[str, ...]
    failed: tuple[str, ...]
    missing: tuple[str, ...]  # seeds of the study without a pair, failed ones aside
    delta_without_diverged: float | None
    stopped: Stopped | None = None  # by a stopping rule; `interval` and `p_holm` then take the looks into account

    @property
    def differences(self) -> Floats:
        """Treatment − control, [pairs], in the unit of the metric."""
        return self.treatment - self.control


@dataclass(frozen=True)
class Finding:
    """Something about the numbers that a reader must know.

    Attributes:
        level: "error" where the conclusion cannot be trusted, else "warning" or "note".
        code: stable name: `identical-seeds`, `duplicate-arms`, `gap`, `not-finite`, `too-few-seeds`, ...
        text: one sentence, with numbers and names.
    """

    level: Literal["error", "warning", "note"]
    code: str
    text: str


@dataclass(frozen=True)
class ArmSummary:
    """One arm alone: number of results, mean and SD (n-1) in the unit of the metric."""

    arm: str
    n: int
    mean: float
    sd: float
    diverged: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparisons:
    """All arms of one table against its baseline.

    Attributes:
        title: what distinguishes this table, `digits · resnet8(width=16) · lr 0.02`.
        family: the arms that Holm's correction ran over, in order.
        design: the stopping rule; None where all seeds are run.
    """

    scores: Scores
    settings: Settings
    baseline: ArmSummary
    rows: tuple[Comparison, ...]
    family: tuple[str, ...]
    findings: tuple[Finding, ...] = ()
    title: str = ""
    notes: tuple[str, ...] = field(default=())
    design: Design | None = None
