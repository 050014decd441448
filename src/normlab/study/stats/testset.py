"""How much of a difference the test set at hand may explain: seeds and examples both drawn again."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from normlab.errors import SpecError
from normlab.study.stats import special
from normlab.study.stats.pairs import Pairs
from normlab.study.stats.result import Floats, Scores, Settings, TestSet

_ROUNDED = 1e-4  # of the whole scale: values may have been rounded to 0.01 %


def crossed_bootstrap(
    differences: NDArray[np.number],
    *,
    scale: float = 1.0,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> TestSet:
    """Uncertainty of a mean difference over both seeds and test examples.

    Each resample draws seeds with replacement; given these, the sum over examples drawn with replacement is taken
    from its normal limit, whose variance is a product with the Gram matrix of the seeds, so that the cost does
    not grow with resamples × examples. Seeds are few: their part is widened by √(S / (S - 1)), and in the interval
    by t / z as well (the expanded percentile). Variation that belongs to neither seeds nor examples alone is
    counted more than once, which errs on the safe side.

    Args:
        differences: [seeds, examples], treatment − control, -1, 0 or 1 for correctness.
        scale: unit of the result, 100 for %.
        confidence: of the two-sided interval.
        resamples: how many.
        seed: of the resampling.

    Raises:
        SpecError: fewer than two seeds or two examples.

    Source: Owen, Ann. Appl. Stat. 1 (2007), the pigeonhole bootstrap; Hesterberg, Am. Stat. 69 (2015), sec. 5.
    """
    if differences.ndim != 2 or min(differences.shape) < 2:
        raise SpecError(
            f"differences of shape {differences.shape} given, [seeds, examples] with two or more of each wanted"
        )
    d = differences.astype(np.float32)  # holds small whole numbers exactly
    seeds, examples = d.shape
    by_seed = d.mean(axis=1, dtype=np.float64)
    mean = float(by_seed.mean())
    gram = (d @ d.T).astype(np.float64) / examples - np.outer(by_seed, by_seed)  # [seeds, seeds]
    seed_part, example_part = _draw(by_seed - mean, gram / (examples - 1), resamples, seed)
    seed_part *= math.sqrt(seeds / (seeds - 1))
    tail = (1 - confidence) / 2
    few = special.t_quantile(seeds - 1, tail) / special.normal_quantile(tail)
    low, high = np.quantile(mean + few * seed_part + example_part, [tail, 1 - tail])
    return TestSet(
        examples=examples,
        disagreement=float((d != 0).mean()),
        se_examples=scale * math.sqrt(max(0.0, float(gram.mean())) / (examples - 1)),
        se_total=scale * float((seed_part + example_part).std()),
        interval=(scale * float(low), scale * float(high)),
    )


def _draw(deviations: Floats, covariance: Floats, resamples: int, seed: int) -> tuple[Floats, Floats]:
    """Per resample [resamples]: the mean deviation of the drawn seeds, and the deviation of the drawn examples."""
    rng = np.random.default_rng(seed)
    n = len(deviations)
    weights = rng.multinomial(n, np.full(n, 1 / n), size=resamples) / n
    variance = ((weights @ covariance) * weights).sum(axis=1)
    return weights @ deviations, rng.standard_normal(resamples) * np.sqrt(np.maximum(variance, 0))


def of_pairs(scores: Scores, pairs: Pairs, settings: Settings) -> TestSet | None:
    """The crossed bootstrap for one comparison, over the pairs in which neither run diverged.

    None where the test examples are not known, fewer than two pairs remain, or the metric is not the share of
    correct examples.
    """
    keep = [scores.seeds.index(s) for s, clean in zip(pairs.seeds, pairs.clean, strict=True) if clean]
    if scores.correct is None or not {pairs.arm, settings.baseline} <= set(scores.correct) or len(keep) < 2:
        return None
    scale = 100.0 if scores.unit == "%" else 1.0
    ours, theirs = scores.correct[pairs.arm][keep], scores.correct[settings.baseline][keep]
    for arm, correct in ((pairs.arm, ours), (settings.baseline, theirs)):
        values = scores.values[scores.arms.index(arm), keep]
        if np.abs(correct.mean(axis=1) * scale - values).max() > _ROUNDED * scale:
            return None
    return crossed_bootstrap(
        ours.astype(np.int8) - theirs.astype(np.int8),
        scale=scale,
        confidence=settings.confidence,
        resamples=settings.resamples,
        seed=settings.seed,
    )
