"""The methods paragraph: what was done, in sentences that can stand in a paper."""

from __future__ import annotations

from collections.abc import Iterator

from normlab.page import format as fmt
from normlab.study.report import wording
from normlab.study.report.document import Document, Panel
from normlab.study.report.stopping import RULES, interval_kind
from normlab.study.stats.result import Comparisons
from normlab.study.stats.stopping.design import Design


def paragraph(document: Document) -> str:
    """Data, model, training, arms, pairing, metric, tests, intervals, what became of bad runs, versions."""
    c = document.panels[0].comparisons
    sentences = [
        *map(fmt.printable, document.methods),
        _arms(document, c),
        *_panels(document.panels),
        _pairing(c),
        *([_test(c)] if c.design is None else _looks(c, c.design)),
        *_verdicts(c),
        _intervals(c),
        *_bad_runs(document.panels),
        *_environment(document),
    ]
    return " ".join(sentences)


def _arms(document: Document, c: Comparisons) -> str:
    base, *names = (_named(arm, document) for arm in (c.baseline.arm, *(row.arm for row in c.rows)))
    if not names:
        return f"Only the baseline was trained ({base})."
    return f"We compared {fmt.plural(len(names), 'recipe')} ({'; '.join(names)}) with the baseline ({base})."


def _named(arm: str, document: Document) -> str:
    definition = fmt.printable(document.arms.get(arm, ""))
    return fmt.printable(arm) + (f": {definition}" if definition and definition != arm else "")


def _panels(panels: tuple[Panel, ...]) -> Iterator[str]:
    if len(panels) > 1:
        titles = "; ".join(fmt.printable(panel.comparisons.title) for panel in panels)
        yield f"The whole comparison was made separately in {len(panels)} settings ({titles})."


def _pairing(c: Comparisons) -> str:
    seeds = fmt.plural(len(c.scores.seeds), "seed")
    metric = f"{wording.metric(c.scores)}, where {c.settings.better} is better"
    if c.design is not None:
        seeds = f"seeds, {seeds} at most"
    return f"Every arm was run with the same {seeds}, and arms were compared pair by pair in {metric}."


def _test(c: Comparisons) -> str:
    family = fmt.plural(len(c.family), "comparison")
    direction = "in both directions" if c.settings.alternative == "two-sided" else "for being better"
    test = f"the {wording.test(c)} test of the mean paired difference ({wording.side(c.settings)}, {direction})"
    return (
        f"Each recipe was tested against the baseline by {test}; p-values were adjusted by Holm's method over the "
        f"{family} of a table, at a family-wise level of {fmt.level(c.settings.alpha)}."
    )


def _looks(c: Comparisons, design: Design) -> Iterator[str]:
    """The stopping rule, as a plan that was fixed before the first run."""
    s, family = c.settings, fmt.plural(len(c.family), "comparison")
    if design.rule == "anytime":
        how = (
            "after every seed, by the right-Haar e-process of the paired t-test with a half-normal(1) prior on the "
            "standardised gain, which may be stopped, or continued, at any time"
        )
    else:
        how = (
            f"after {fmt.enumeration([str(n) for n in design.looks])} seeds by a group-sequential paired t-test whose "
            f"bounds spend the level as {RULES[design.rule]} do (Lan and DeMets), computed for t by simulation"
        )
    yield (
        f"Each recipe was compared with the baseline {how} ({wording.side(s)}); at each look Holm's method was applied "
        f"to the sequential p-values of the {family} of a table, at a family-wise level of {fmt.level(s.alpha)}, and "
        "recipes that were decided got no further seeds."
    )
    if design.futility:
        yield (
            f"A recipe whose chance to be decided by the last look had fallen below {fmt.percent(design.futility)} was "
            "given up; the bounds do not rely on that."
        )


def _verdicts(c: Comparisons) -> Iterator[str]:
    s = c.settings
    if s.equivalence is not None:
        limit = f"±{wording.margin(s.equivalence, wording.places(c))}{wording.points(c.scores)}"
        yield (
            f"A recipe is called equivalent where two one-sided t-tests, adjusted in the same way, put its difference "
            f"within {limit}."
        )
    yield (
        f"Whatever is neither is called unresolved, with the seeds that would give {fmt.percent(s.power)} power for "
        f"an effect of the size observed."
    )


def _intervals(c: Comparisons) -> str:
    s = c.settings
    if c.design is not None:
        return f"Intervals have {fmt.percent(s.confidence)}: {interval_kind(c)}."
    return (
        f"Intervals are two-sided {fmt.percent(s.confidence)} paired t intervals, not adjusted; sign-flip and "
        f"bootstrap-t intervals ({fmt.count(s.resamples)} resamples, seed {s.seed}) are drawn beside them."
    )


def _bad_runs(panels: tuple[Panel, ...]) -> Iterator[str]:
    """What became of diverged, failed and missing runs, over all tables."""
    scores = [panel.comparisons.scores for panel in panels]
    diverged = sum(len(s.diverged) for s in scores)
    failed = sum(len(s.failed) for s in scores)
    absent = sum(int((s.values != s.values).sum()) - len(s.unused) for s in scores) - failed
    if diverged:
        counted = next((fmt.printable(s.diverged_as) for s in scores if s.diverged and s.diverged_as), "they ended")
        yield f"{fmt.plural(diverged, 'run')} diverged and {_was(diverged)} kept, counted as {counted}."
    if failed:
        yield f"{fmt.plural(failed, 'run')} failed; the pairs were left out."
    if absent:
        yield f"{fmt.plural(absent, 'run')} {_was(absent)} missing; the pairs were left out."
    if not diverged + failed + absent:
        yield "No run diverged, failed or was left out."


def _was(n: int) -> str:
    return "was" if n == 1 else "were"


def _environment(document: Document) -> Iterator[str]:
    if document.environment:
        versions = (f"{fmt.printable(k)} {fmt.printable(v)}" for k, v in document.environment.items())
        yield f"Environment: {', '.join(versions)}."
