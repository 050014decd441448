"""`normlab power`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from normlab.cli.options import as_json
from normlab.errors import SpecError

if TYPE_CHECKING:
    from normlab.study.stats.planning import Plan, Question
    from normlab.study.stats.result import Scores

_TABLE = (3, 5, 8, 10, 15, 20, 30, 50)


@click.command()
@click.option("--effect", type=float, metavar="D_Z", help="Mean paired difference in its own SDs.")
@click.option("--delta", type=float, metavar="D", help="Mean difference in the unit of the metric.")
@click.option("--sd", type=float, metavar="S", help="SD of one arm over seeds, for --delta.")
@click.option("--rho", type=float, metavar="R", help="Correlation of the two arms over seeds, for --sd; 0 unless said.")
@click.option("--pilot", metavar="FILE", help="CSV of finished runs: gives SDs, and effects unless --delta is given.")
@click.option("--baseline", metavar="ARM", help="The control in the pilot; default: base, baseline or control.")
@click.option("--seeds", type=int, metavar="N", help="Paired seeds.")
@click.option("--power", "chance", type=float, metavar="P", help="Chance to find the effect; 0.8 unless asked for.")
@click.option("--alpha", type=float, default=0.05, show_default=True, help="Family-wise level.")
@click.option("--two-sided", is_flag=True, help="Test both directions at once.")
@click.option("--family", type=int, default=1, metavar="K", help="Arms tested together: plan at Holm's first step.")
@as_json
def power(
    effect: float | None,
    delta: float | None,
    sd: float | None,
    rho: float | None,
    pilot: str | None,
    baseline: str | None,
    seeds: int | None,
    chance: float | None,
    alpha: float,
    two_sided: bool,
    family: int,
    as_json: bool,
) -> None:
    """Give whichever of effect, seeds and power is missing, and a small table around it.

    Paired differences of arms that each have SD S and correlate by R have SD S·√(2(1 − R)).
    """
    from normlab.study.stats.planning import Question, plan

    scores, control = _pilot(pilot, baseline)
    question = Question(
        effect=effect,
        delta=delta,
        sd=sd,
        rho=rho,
        pilot=scores,
        baseline=control,
        seeds=seeds,
        power=chance,
        alpha=alpha,
        alternative="two-sided" if two_sided else "greater",
        family=family,
    )
    plans = plan(question)
    click.echo(json.dumps(_as_data(question, plans), indent=1) if as_json else "\n".join(_lines(question, plans)))


def _pilot(path: str | None, baseline: str | None) -> tuple[Scores | None, str]:
    if path is None:
        if baseline is not None:
            raise SpecError("--baseline names the control of a pilot; add --pilot results.csv")
        return None, ""
    from normlab.study.stats.request import find_baseline
    from normlab.study.stats.table import read_csv

    scores = read_csv(path)
    return scores, find_baseline(scores.arms) if baseline is None else baseline


def _lines(question: Question, plans: tuple[Plan, ...]) -> Iterator[str]:
    from normlab.study.stats.power import fewest_seeds

    for p in plans:
        size = f"d_z {p.effect:.3g}" + (f" (a difference of {p.delta:.3g})" if p.delta is not None else "")
        seeds = "more than 100,000 paired seeds" if p.seeds is None else f"{p.seeds} paired seeds"
        yield f"{p.arm + ': ' if p.arm else ''}{seeds} find {size} with power {p.power:.2f}"
    sides = "one-sided" if question.alternative == "greater" else "two-sided"
    holm = f" = {question.alpha:g} / {question.family}" if question.family > 1 else ""
    floor = fewest_seeds(question.level, question.alternative)
    yield f"{sides} exact sign-flip test, α = {question.level:.3g}{holm}, takes {floor} seeds or more"
    yield "smallest d_z is that of the paired t-test, which needs a little less below 8 seeds"
    if question.pilot is not None and question.delta is None:
        yield "a small pilot knows its effects badly; --delta, the smallest difference that matters, is a better plan"
    yield ""
    heads = ["seeds", "smallest d_z", *(f"power at {abs(p.effect):.2f}" for p in plans)]
    yield "  ".join(heads)
    for row in _table(question, plans):
        texts = [str(row["seeds"]), f"{row['smallest_effect']:.2f}", *(f"{x:.2f}" for x in row["power"])]
        yield "  ".join(text.rjust(len(head)) for text, head in zip(texts, heads, strict=True))


def _table(question: Question, plans: tuple[Plan, ...]) -> list[dict[str, Any]]:
    """Per number of seeds: the smallest effect found with the power asked for, and the power at each plan's effect."""
    from normlab.study.stats.planning import USUAL_POWER
    from normlab.study.stats.power import detectable_effect, fewest_seeds, power_curve

    fewest = fewest_seeds(question.level, question.alternative)
    seeds = sorted(n for n in {*_TABLE, *(p.seeds for p in plans if p.seeds is not None)} if n >= fewest)
    target = USUAL_POWER if question.power is None else question.power
    level, sides = question.level, question.alternative
    curves = [power_curve(abs(p.effect), seeds, alpha=level, alternative=sides).tolist() for p in plans]
    smallest = [detectable_effect(n, target=target, alpha=level, alternative=sides) for n in seeds]
    return [
        {"seeds": n, "smallest_effect": effect, "power": list(at)}
        for n, effect, *at in zip(seeds, smallest, *curves, strict=True)
    ]


def _as_data(question: Question, plans: tuple[Plan, ...]) -> dict[str, Any]:
    return {
        "alpha": question.alpha,
        "level": question.level,
        "alternative": question.alternative,
        "plans": [asdict(p) for p in plans],
        "table": _table(question, plans),
    }
