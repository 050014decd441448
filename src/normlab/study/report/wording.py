"""What a report says about a comparison, in words: the one place, for every writer.

The four verdicts are better, worse, equivalent and unresolved. "No difference" is never said: the absence of a
significant difference is not a result, the number of seeds that would decide is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from normlab.page import format as fmt
from normlab.study.report.document import Document, Failure
from normlab.study.report.stopping import interval_kind, p_kind, rule, seeds, when
from normlab.study.stats.result import Comparison, Comparisons, Scores, Settings
from normlab.study.stats.signflip import EXACT_TEST_PAIRS, RANDOM_SUBSETS

TEST_SET = "‡"  # the difference may belong to this test set
UNEQUAL = "§"  # fewer pairs than the other rows
SE_FACTOR = 2  # a difference below so many test-set SE gets TEST_SET


def metric(scores: Scores) -> str:
    """`test accuracy (%)`."""
    name = fmt.printable(scores.metric.replace("_", " "))
    return f"{name} ({scores.unit})" if scores.unit else name


def points(scores: Scores) -> str:
    """The unit of a difference, with the space before it: differences of percentages are points."""
    return f"{fmt.NBSP}points" if scores.unit == "%" else f"{fmt.NBSP}{scores.unit}" if scores.unit else ""


def places(c: Comparisons) -> int:
    """Decimals of everything in the unit of the metric."""
    return fmt.decimals([c.baseline.sd, *(row.sd for row in c.rows)])


def heading(c: Comparisons) -> str:
    """What a table is about: where, how many pairs, the metric, the baseline."""
    b = c.baseline
    value = fmt.mean_sd(b.mean, b.sd, places(c)) + ("" if math.isnan(b.sd) else " (SD)")
    parts = (fmt.printable(c.title), seeds(c), metric(c.scores), f"baseline {fmt.printable(b.arm)} {value}")
    return " · ".join(filter(None, parts))


def verdict_detail(row: Comparison, settings: Settings, decimals: int) -> str:
    """What follows the verdict: how many seeds would resolve it, or within which margin it is equivalent."""
    if row.verdict == "unresolved":
        given_up = f"{when(row)}; " if when(row) else ""
        return f": {given_up}{seeds_missing(row)} for {fmt.percent(settings.power)} power"
    if row.verdict in ("better", "worse") and when(row):
        return f" ({when(row)})"
    if row.verdict == "equivalent" and settings.equivalence is not None:
        tost = "" if row.p_equivalent is None else f" (TOST{fmt.NBSP}{fmt.p_equals(row.p_equivalent)})"
        return f" within ±{margin(settings.equivalence, decimals)}{tost}"
    return ""


def margin(x: float, decimals: int) -> str:
    """The equivalence margin without trailing zeros: `0.5`."""
    return f"{round(x, max(decimals, 3)):g}"


def seeds_missing(row: Comparison) -> str:
    """`~22 more seeds`, for an effect as large as the one observed."""
    if row.seeds_needed is None:
        return f"more than {fmt.plural(100_000, 'seed')}"
    return f"~{fmt.plural(max(row.seeds_needed - len(row.seeds), 1), 'more seed')}"


def decisive_p(row: Comparison) -> float:
    """The adjusted p of the direction that the verdict is about."""
    return row.p_holm_worse if row.verdict == "worse" else row.p_holm


def answer(row: Comparison, c: Comparisons) -> str:
    """One sentence on one arm, `γ 0.10 is better than base: +0.61 points [+0.21, +1.01], 15 seeds, p = .004.`"""
    arm, base, d = fmt.printable(row.arm), fmt.printable(c.baseline.arm), places(c)
    if row.verdict == "no data":
        return f"{arm} cannot be compared with {base}: {fmt.plural(len(row.seeds), 'pair')} of results."
    size = f"{fmt.estimate(row.delta, row.interval, d, points(c.scores))}, {fmt.plural(len(row.seeds), 'seed')}"
    p = fmt.p_equals(decisive_p(row))
    stop = f", {when(row)}" if when(row) else ""
    if row.verdict == "unresolved":
        power = fmt.percent(c.settings.power)
        return f"{arm} against {base} is unresolved: {size}, {p}{stop}; {seeds_missing(row)} for {power} power."
    if row.verdict == "equivalent":
        return f"{arm} is equivalent to {base}{verdict_detail(row, c.settings, d)}: {size}."
    return f"{arm} is {row.verdict} than {base}: {size}, {p}{stop}."


def irregular(row: Comparison, c: Comparisons) -> str:
    """Diverged, failed and missing runs of a row by seed; "" where there are none."""
    parts = [_diverged(row, c)] if row.diverged else []
    if row.failed:
        parts.append(f"{len(row.failed)} failed ({fmt.seeds(row.failed)}), no pair")
    if row.missing:
        parts.append(f"{len(row.missing)} missing ({fmt.seeds(row.missing)}), no pair")
    return "; ".join(parts)


def _diverged(row: Comparison, c: Comparisons) -> str:
    text = f"{len(row.diverged)} diverged ({fmt.seeds(row.diverged)})"
    if c.scores.diverged_as:
        text += f", counted as {fmt.printable(c.scores.diverged_as)}"
    if row.delta_without_diverged is not None and math.isfinite(row.delta_without_diverged):
        delta = fmt.number(row.delta_without_diverged, places(c), signed=True)
        text += f"; without {'it' if len(row.diverged) == 1 else 'them'} Δ{fmt.NBSP}={fmt.NBSP}{delta}"
    return text


def _left_out(c: Comparisons) -> str:
    """Diverged runs of the baseline that name no value: what they count as depends on the recipe compared."""
    values = dict(zip(c.scores.seeds, c.scores.values[c.scores.arms.index(c.baseline.arm)].tolist(), strict=True))
    bare = tuple(seed for seed in c.baseline.diverged if math.isnan(values[seed]))
    return f"; {fmt.seeds(bare)} without a value, so in its pairs and not in its mean" if bare else ""


def irregular_baseline(c: Comparisons) -> Iterator[str]:
    """The same of the baseline alone."""
    b = c.baseline
    if b.diverged:
        yield f"baseline {fmt.printable(b.arm)}: {len(b.diverged)} diverged ({fmt.seeds(b.diverged)}){_left_out(c)}"
    if b.failed:
        yield f"baseline {fmt.printable(b.arm)}: {len(b.failed)} failed ({fmt.seeds(b.failed)})"


def within_test_set(row: Comparison) -> bool:
    """Whether other test examples could undo the difference."""
    return row.test_set is not None and abs(row.delta) < SE_FACTOR * row.test_set.se_examples


def fewer_pairs(row: Comparison, c: Comparisons) -> bool:
    """Whether another row of the table has more pairs, for no better reason than that a rule has stopped this one."""
    if row.stopped is not None and row.stopped.course.decided is not None:
        return False
    return len(row.seeds) < max(len(other.seeds) for other in c.rows)


def side(settings: Settings) -> str:
    """`one-sided` or `two-sided`."""
    return "one-sided" if settings.alternative == "greater" else "two-sided"


def test(c: Comparisons) -> str:
    """`exact sign-flip`; beyond the number of pairs up to which it is exact, how many assignments were drawn.

    Of a stopping rule, what it goes by: `O'Brien–Fleming bounds for t at 5, 10 and 15 seeds`.
    """
    if c.design is not None:
        return rule(c.design)
    if max((len(row.seeds) for row in c.rows), default=0) <= EXACT_TEST_PAIRS:
        return "exact sign-flip"
    return f"sign-flip ({fmt.count(RANDOM_SUBSETS)} drawn)"


def footer(c: Comparisons) -> tuple[str, ...]:
    """The lines under a table: family and level, what the columns are, pairing, test set, marks."""
    if not c.rows:
        return (*irregular_baseline(c), "there is no recipe to compare with the baseline")
    lines = [_family(c), *irregular_baseline(c), *_pairing(c), *_test_set(c)]
    if any(fewer_pairs(row, c) for row in c.rows):
        lines.append(f"{UNEQUAL} fewer pairs than the other rows")
    if any(row.verdict == "worse" for row in c.rows) and c.settings.alternative == "greater":
        lines.append("p_holm of a worse recipe is that of the opposite direction")
    return (*lines, *map(fmt.printable, c.notes))


def _family(c: Comparisons) -> str:
    names = f" ({', '.join(map(fmt.printable, c.family))})" if len(c.family) < len(c.rows) else ""
    every = " at every look" if c.design is not None else ""
    level = f"{test(c)}, Holm{every}, α{fmt.NBSP}={fmt.NBSP}{fmt.level(c.settings.alpha)} {side(c.settings)}"
    level += ", for better and for worse each" if c.settings.alternative == "greater" else ""
    return f"family: {fmt.plural(len(c.family), 'recipe')}{names}, {level} · CI: {interval_kind(c)}"


def _pairing(c: Comparisons) -> Iterator[str]:
    """The correlation over seeds and its worth: independent arms would need so many times the seeds."""
    rho = [row.rho for row in c.rows if math.isfinite(row.rho) and len(row.seeds) > 2]
    gains = [gain for row in c.rows if math.isfinite(gain := pairing_gain(row))]
    if rho and gains:
        spread = f" ({fmt.number(min(rho), 2)} to {fmt.number(max(rho), 2)})" if len(rho) > 1 else ""
        worth = f"unpaired arms would need ×{np.median(gains):.1f} the seeds"
        yield f"pairing ρ{fmt.NBSP}={fmt.NBSP}{fmt.number(float(np.median(rho)), 2)}{spread}: {worth}"


def pairing_gain(row: Comparison) -> float:
    """Variance of a difference of unpaired runs, in units of that of paired ones."""
    if len(row.seeds) < 3:
        return math.nan
    paired = float(np.var(row.differences))
    return float(np.var(row.treatment) + np.var(row.control)) / paired if paired > 0 else math.nan


def _test_set(c: Comparisons) -> Iterator[str]:
    errors = [row.test_set.se_examples for row in c.rows if row.test_set is not None]
    if not errors:
        yield "test-set sampling error: not known (no result per example), not included"
        return
    low, high = fmt.number(min(errors), places(c)), fmt.number(max(errors), places(c))
    size = low if low == high else f"{low} to {high}"
    marked = any(map(within_test_set, c.rows))
    meaning = f"{TEST_SET} |Δ| < {SE_FACTOR} test-set SE" if marked else f"every |Δ| ≥ {SE_FACTOR} of it"
    yield f"test-set SE ±{size}{points(c.scores)}, not included in the CI; {meaning}"


def failure(f: Failure) -> str:
    """`γ 0.10, seed 3: RuntimeError: ... (traceback: runs/...)`."""
    where = f" (traceback: {fmt.printable(f.traceback)})" if f.traceback and "\n" not in f.traceback else ""
    return f"{fmt.printable(f.arm)}, seed {fmt.printable(f.seed)}: {fmt.printable(f.error)}{where}"


def progress(document: Document) -> str:
    """`58 of 60 runs finished · 3 h 12 min of computing`; "" where neither is known."""
    done, planned = document.runs
    runs = f"{fmt.count(done)} of {fmt.plural(planned, 'run')} finished" if planned else ""
    runs += f", {fmt.count(document.needless)} not needed" if document.needless else ""
    time = "" if document.seconds is None else f"{fmt.duration(document.seconds)} of computing"
    return " · ".join(filter(None, [runs, time]))


def paper_bold(c: Comparisons) -> str:
    """The note under the table in the style of the paper."""
    limit = f"≤{fmt.NBSP}{fmt.level(c.settings.alpha)}"
    how = f"paired t-test against the baseline, p{fmt.NBSP}{limit}, not adjusted for the number of recipes"
    if c.design is not None:  # an ordinary p is too small where one has looked before
        how = f"{rule(c.design)}, Holm at every look, p_holm{fmt.NBSP}{limit}"
    return f"bold: {side(c.settings)} {how}; underlined: best mean"


def reading(c: Comparisons, style: str) -> tuple[str, ...]:
    """How to read the table, a sentence per column or mark that needs one."""
    if style == "paper":
        return (paper_bold(c),)
    ci = fmt.percent(c.settings.confidence)
    return (
        f"Δ is recipe − baseline in the unit of the metric, the mean over paired seeds; {c.settings.better} is better.",
        f"{ci} CI of Δ: {interval_kind(c)}. SD is over seeds (n − 1).",
        "d_z: Δ in SDs of the differences, positive where the recipe is better, Hedges' correction.",
        "P(better): share of paired seeds on which the recipe is better, ties count half.",
        f"p_holm: {p_kind(c, test(c))}, {side(c.settings)}, Holm's correction over the family; bold where it decides.",
        "unresolved is no verdict on the recipe: it says how many seeds an effect of the size observed would need.",
    )


def caption(c: Comparisons, style: str) -> str:
    """The heading of a table and its methods, in two sentences."""
    ci = fmt.percent(c.settings.confidence)
    adjusted = (
        f"Differences to the baseline with {ci} intervals ({interval_kind(c)}); bold: {side(c.settings)} test on "
        f"paired seeds, {test(c)}, Holm over {fmt.plural(len(c.family), 'recipe')}, "
        f"α{fmt.NBSP}={fmt.NBSP}{fmt.level(c.settings.alpha)}."
    )
    return f"{heading(c)}. " + (f"Mean ± SD over seeds; {paper_bold(c)}." if style == "paper" else adjusted)
