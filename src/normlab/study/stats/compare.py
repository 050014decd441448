"""Scores and settings in, the comparison table out."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from normlab.study.stats import effects, testset
from normlab.study.stats.check import check
from normlab.study.stats.family import Judgement, judge
from normlab.study.stats.intervals import bootstrap_t_interval, t_interval
from normlab.study.stats.paired import paired_t, spread, wilcoxon
from normlab.study.stats.pairs import Pairs, of_arm, pair
from normlab.study.stats.request import checked_family
from normlab.study.stats.result import ArmSummary, Comparison, Comparisons, Floats, Scores, Settings
from normlab.study.stats.signflip import EXACT_INTERVAL_PAIRS, EXACT_TEST_PAIRS, RANDOM_SUBSETS, signflip_interval
from normlab.study.stats.stopping.judge import Stopping, judge_stopped, with_stop

_OF_THE_EXACT_TEST = ("too-few-seeds",)
_UNKNOWN = (math.nan, math.nan)


def compare(scores: Scores, settings: Settings, title: str = "", stopping: Stopping | None = None) -> Comparisons:
    """Compare every arm of the family with the baseline, paired by seed.

    Args:
        scores: one metric, [arms, seeds]; what is not finite has no pair and is listed.
        settings: everything that is chosen; arms outside `settings.family` are left out and named in the findings.
        title: what distinguishes this table from others.
        stopping: the courses of all arms of the family, where a stopping rule decides; `scores` then holds what the
            looks went by.

    Returns:
        One row per arm of the family in the order of the study, with a verdict each, and what `check` found.

    Raises:
        SpecError: a setting that cannot be used; UnknownName where it names no arm.
    """
    family = checked_family(scores, settings)
    pairs = [pair(scores, arm, settings) for arm in family]
    gains = [p.gains(settings) for p in pairs]
    if stopping is None:
        judgements = judge(gains, settings)
    else:
        judgements = judge_stopped(gains, [stopping.courses[arm] for arm in family], stopping.design, settings)
    rows = [_row(p, j, scores, settings) for p, j in zip(pairs, judgements, strict=True)]
    if stopping is not None:
        rows = [with_stop(row, g, stopping, settings) for row, g in zip(rows, gains, strict=True)]
    return Comparisons(
        scores=scores,
        settings=settings,
        baseline=summary(scores, settings.baseline),
        rows=tuple(rows),
        family=family,
        findings=tuple(f for f in check(scores, settings) if stopping is None or f.code not in _OF_THE_EXACT_TEST),
        title=title,
        notes=_notes(max((len(p.seeds) for p in pairs), default=0), details=stopping is not None),
        design=None if stopping is None else stopping.design,
    )


def summary(scores: Scores, arm: str) -> ArmSummary:
    """One arm alone; mean and SD are NaN where there are too few results for them."""
    values = scores.values[scores.arms.index(arm)]
    values = values[np.isfinite(values)]
    return ArmSummary(
        arm=arm,
        n=len(values),
        mean=_mean(values),
        sd=_sd(values),
        diverged=of_arm(scores.diverged, arm, scores.seeds),
        failed=of_arm(scores.failed, arm, scores.seeds),
    )


def _row(pairs: Pairs, judgement: Judgement, scores: Scores, settings: Settings) -> Comparison:
    bare = _bare_row(pairs, judgement)
    if len(pairs.seeds) < 2:
        return bare
    described = _with_effects(bare, pairs, scores.unit, settings)
    return replace(_with_inference(described, pairs, settings), test_set=testset.of_pairs(scores, pairs, settings))


def _bare_row(pairs: Pairs, judgement: Judgement) -> Comparison:
    """What is known of any number of pairs; the rest NaN."""
    return Comparison(
        arm=pairs.arm,
        seeds=pairs.seeds,
        treatment=pairs.treatment,
        control=pairs.control,
        mean=_mean(pairs.treatment),
        sd=_sd(pairs.treatment),
        delta=_mean(pairs.differences),
        interval=_UNKNOWN,
        interval_bootstrap_t=_UNKNOWN,
        interval_signflip=_UNKNOWN,
        d_z=math.nan,
        d_z_interval=_UNKNOWN,
        improvement=math.nan,
        improvement_interval=_UNKNOWN,
        error_reduction=None,
        sd_ratio=math.nan,
        sd_ratio_interval=_UNKNOWN,
        sd_ratio_p=math.nan,
        rho=math.nan,
        t=math.nan,
        p_t=math.nan,
        p_signflip=judgement.p_signflip,
        p_wilcoxon=math.nan,
        p_holm=judgement.p_holm,
        p_holm_worse=judgement.p_holm_worse,
        p_equivalent=judgement.p_equivalent,
        verdict=judgement.verdict,
        seeds_needed=judgement.seeds_needed,
        test_set=None,
        diverged=pairs.diverged,
        failed=pairs.failed,
        missing=pairs.missing,
        delta_without_diverged=_clean_delta(pairs),
    )


def _with_effects(row: Comparison, pairs: Pairs, unit: str, settings: Settings) -> Comparison:
    gains, level = pairs.gains(settings), settings.confidence
    ours, theirs = pairs.treatment, pairs.control
    ratio = effects.sd_ratio(ours, theirs, level)
    return replace(
        row,
        d_z=effects.cohen_d_z(gains),
        d_z_interval=effects.d_z_interval(gains, level),
        improvement=effects.improvement(gains),
        improvement_interval=effects.improvement_interval(gains, level),
        error_reduction=effects.error_reduction(ours, theirs, better=settings.better) if unit == "%" else None,
        sd_ratio=ratio.ratio,
        sd_ratio_interval=ratio.interval,
        sd_ratio_p=ratio.p,
        rho=effects.correlation(ours, theirs),
    )


def _with_inference(row: Comparison, pairs: Pairs, settings: Settings) -> Comparison:
    d, gains, level, seed = pairs.differences, pairs.gains(settings), settings.confidence, settings.seed
    t, p_t = paired_t(gains, settings.alternative)
    return replace(
        row,
        interval=t_interval(d, level),
        interval_bootstrap_t=bootstrap_t_interval(d, level, resamples=settings.resamples, seed=seed),
        interval_signflip=signflip_interval(d, level, seed=seed),
        t=0.0 if math.isnan(t) else t,  # equal arms: nothing differs, and nothing speaks against H0
        p_t=1.0 if math.isnan(p_t) else p_t,
        p_wilcoxon=wilcoxon(gains, settings.alternative),
    )


def _notes(pairs: int, *, details: bool) -> tuple[str, ...]:
    """How the sign-flip numbers were found, for a table whose longest row has `pairs` pairs.

    Args:
        details: they stand in the details only, and know nothing of looks: a stopping rule gives the table's p.
    """
    if details:
        return ("Sign-flip p and interval, in the details, take no account of the looks; the table's p does.",)
    if pairs <= EXACT_INTERVAL_PAIRS:
        return ("Sign-flip p and interval are exact, over all assignments of signs.",)
    drawn = f"from {RANDOM_SUBSETS:,} drawn assignments of signs beyond"
    if pairs <= EXACT_TEST_PAIRS:
        return (f"Sign-flip p is exact, over all assignments; its interval is {drawn} {EXACT_INTERVAL_PAIRS} pairs.",)
    return (
        f"Sign-flip p is {drawn} {EXACT_TEST_PAIRS} pairs, its interval beyond {EXACT_INTERVAL_PAIRS}; else exact.",
    )


def _clean_delta(pairs: Pairs) -> float | None:
    """The mean difference without the pairs in which a run diverged; None where none did or none is left."""
    clean = np.array(pairs.clean)
    return float(pairs.differences[clean].mean()) if 0 < clean.sum() < len(clean) else None


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else math.nan


def _sd(values: Floats) -> float:
    return spread(values) if len(values) >= 2 else math.nan
