"""Paired statistics: NumPy in, dataclasses out; imports no torch."""

from __future__ import annotations

from normlab.study.stats.check import check
from normlab.study.stats.compare import compare, summary
from normlab.study.stats.effects import (
    cohen_d_z,
    correlation,
    d_z_interval,
    error_reduction,
    improvement,
    improvement_interval,
    sd_ratio,
)
from normlab.study.stats.family import holm
from normlab.study.stats.intervals import bootstrap_t_interval, t_interval
from normlab.study.stats.paired import equivalence, paired_t, wilcoxon
from normlab.study.stats.pairs import paired_differences
from normlab.study.stats.power import (
    detectable_effect,
    fewest_seeds,
    power,
    power_curve,
    sd_of_difference,
    seeds_needed,
)
from normlab.study.stats.request import find_baseline
from normlab.study.stats.result import (
    ArmSummary,
    Comparison,
    Comparisons,
    Finding,
    Scores,
    Settings,
    TestSet,
)
from normlab.study.stats.signflip import signflip_interval, signflip_test
from normlab.study.stats.table import read_csv
from normlab.study.stats.testset import crossed_bootstrap

__all__ = [
    "ArmSummary",
    "Comparison",
    "Comparisons",
    "Finding",
    "Scores",
    "Settings",
    "TestSet",
    "bootstrap_t_interval",
    "check",
    "cohen_d_z",
    "compare",
    "correlation",
    "crossed_bootstrap",
    "d_z_interval",
    "detectable_effect",
    "equivalence",
    "error_reduction",
    "fewest_seeds",
    "find_baseline",
    "holm",
    "improvement",
    "improvement_interval",
    "paired_differences",
    "paired_t",
    "power",
    "power_curve",
    "read_csv",
    "sd_of_difference",
    "sd_ratio",
    "seeds_needed",
    "signflip_interval",
    "signflip_test",
    "summary",
    "t_interval",
    "wilcoxon",
]
