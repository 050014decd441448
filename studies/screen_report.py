"""Writes results/screen: scores and accuracies, their Kendall τ, a figure, and the report."""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from normlab.page.canvas import ARMS, FAINT, GRID, INK, WIDTH, svg
from normlab.screen import Screening, Tau, kendall
from normlab.study import Results

DEVELOP = "residual"
PROTOCOL = """\
Every candidate is trained on every panel, and screened there: same network, data, batch size and initial values.
The score and its limits were chosen on the panel residual, from two seeds of it, before the others were looked at;
single runs of some normalizers on like settings had been seen when learning rates were picked. Two things were
changed afterwards: scores are rounded to three digits, so that networks which start alike are tied (which moved τ
by 0.03 at most), and limits widen beyond 22 layers, which no panel has.

These are not quite the 17 that `normlab screen` takes by default. 14 are the same; the group norms have 2, 4 and 8
groups here, and 2, 8 and 32 there, fewer where so many do not fit (lower=True). Of 32 groups this says nothing."""
REMARKS = [
    """
Without shortcuts the agreement is moderate, and below that of two seeds: weight_norm and none start as healthily as
normalized networks do, and then fail at this learning rate in some seeds; variance and instance are overrated.""",
    """
With batches of 4 the score is too hard on batch statistics: batch, rbn and iebn trained best, and stand in the middle
for the noise of their batches. The scores at batches of 32, which hold no such noise, agree better (last column).""",
    """
Normalizers that do the same at initialisation (batch, rbn, iebn; weight_norm, none) cannot be told apart by it.""",
    """
Short training of small networks, one learning rate a panel: the ranking is about getting under way, not about the last
percent.""",
]
TITLES = {
    "residual": "20 layers with shortcuts, 300 digits, batches of 32",
    "plain": "10 layers without shortcuts, 300 digits, batches of 32",
    "small_batch": "14 layers with shortcuts, 300 digits, batches of 4",
    "fashion": "14 layers with shortcuts, 400 images of Fashion-MNIST, batches of 32",
}

Accuracies = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True)
class Panel:
    """One setting: what was screened, what was trained, and how they agree.

    Args:
        scores: by normalizer; 0 for one that could not be screened.
        ceiling: mean τ between the accuracies of two seeds. transfer: τ of the scores of the develop panel.
    """

    name: str
    setting: str
    develop: bool
    screening: Screening
    scores: Mapping[str, float]
    accuracies: Accuracies
    tau: Tau
    ceiling: float
    transfer: float


def write(
    results: Results,
    settings: Mapping[str, Mapping[str, Any]],
    screened: Callable[[str, Sequence[str]], Screening],
    out: Path,
) -> Path:
    """Write everything; the path of tau.json."""
    norms = tuple(results.arms)
    found = accuracies(results)
    screenings = {name: screened(name, norms) for name in found}
    develop = scores(screenings[DEVELOP], norms)
    panels = [panel(name, norms, screenings[name], found[name], develop) for name in found]
    out.mkdir(parents=True, exist_ok=True)
    write_results(panels, out / "results.csv")
    write_scores(panels, out / "scores.csv")
    (out / "agreement.svg").write_text(svg(lambda: figure(panels), "screen", "score and accuracy"), encoding="utf-8")
    (out / "report.md").write_text(report(panels, settings, results), encoding="utf-8")
    plain = [
        {"name": p.name, "setting": p.setting, "develop": p.develop, "tau": rounded(asdict(p.tau))} for p in panels
    ]
    place = out / "tau.json"
    place.write_text(json.dumps({"panels": plain}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return place


def accuracies(results: Results) -> dict[str, dict[str, dict[int, float]]]:
    """By panel, normalizer and seed; seeds at which all normalizers of the panel have been trained."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for point in results.points:
        every = results.scores(point)
        norms = found[str(dict(point)["panel"])] = {}
        for norm, values in zip(every.arms, every.values, strict=True):
            by_seed = zip(every.seeds, values.tolist(), strict=True)
            norms[norm] = {int(seed): value for seed, value in by_seed if math.isfinite(value)}
    for norms in found.values():
        whole = set.intersection(*(set(values) for values in norms.values()))
        for norm, values in norms.items():
            norms[norm] = {seed: values[seed] for seed in sorted(whole)}
    return found


def scores(screening: Screening, norms: Sequence[str]) -> dict[str, float]:
    """By normalizer."""
    return dict.fromkeys(norms, 0.0) | {one.norm: one.score for one in screening.ranked}


def panel(
    name: str, norms: Sequence[str], screening: Screening, found: Accuracies, develop: Mapping[str, float]
) -> Panel:
    """The panel, compared."""
    own = scores(screening, norms)
    mean = [fmean(found[norm].values()) for norm in norms]
    columns = np.array([list(found[norm].values()) for norm in norms]).T
    pairs = [kendalltau(a, b).statistic for a, b in itertools.combinations(columns, 2)]
    return Panel(
        name,
        TITLES[name],
        name == DEVELOP,
        screening,
        own,
        found,
        kendall(own, found),
        float(np.mean(pairs)),
        float(kendalltau([develop[norm] for norm in norms], mean).statistic),
    )


def rounded(tau: dict[str, Any]) -> dict[str, Any]:
    """To three decimals."""
    return {key: round(value, 3) if isinstance(value, float) else value for key, value in tau.items()}


def write_results(panels: list[Panel], path: Path) -> None:
    """Accuracy of every run."""
    rows = [
        (p.name, norm, seed, f"{value:.4f}")
        for p in panels
        for norm, v in p.accuracies.items()
        for seed, value in v.items()
    ]
    _csv(path, ("panel", "norm", "seed", "accuracy"), rows)


PROPERTIES = ("growth", "fading", "explosion", "vanishing", "cosine", "rank", "noise", "finite")


def write_scores(panels: list[Panel], path: Path) -> None:
    """What was measured before training."""
    rows = [
        (
            p.name,
            one.norm,
            f"{one.score:.4g}",
            one.verdict,
            *(_cell(getattr(one.properties, key)) for key in PROPERTIES),
        )
        for p in panels
        for one in p.screening.ranked
    ]
    _csv(path, ("panel", "norm", "score", "verdict", *PROPERTIES), rows)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _csv(path: Path, head: tuple[str, ...], rows: list[Any]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(rows)


def figure(panels: list[Panel]) -> Any:
    """Accuracy of the normalizers in the order of their scores: were τ 1, every panel would fall from left to right."""
    from matplotlib.figure import Figure

    rows = -(-len(panels) // 2)
    drawn = Figure(figsize=(WIDTH, 4.6 * rows), layout="constrained")
    for place, p in zip(drawn.subplots(rows, 2, squeeze=False).flat, panels, strict=False):
        best_first = sorted(p.scores, key=lambda norm: -p.scores[norm])
        for x, norm in enumerate(best_first):
            values = list(p.accuracies[norm].values())
            place.plot([x, x], [min(values), max(values)], color=FAINT, lw=1.5, zorder=1)
            place.plot([x], [fmean(values)], "o", color=ARMS[0], ms=4)
        labels = [f"{norm.replace('num_groups=', '')}  {p.scores[norm]:.1f}" for norm in best_first]
        place.set_xticks(range(len(labels)), labels, rotation=90, fontsize=7)
        place.set_ylim(0, 100)
        place.grid(axis="y", color=GRID)
        place.set_axisbelow(True)
        place.set_title(f"{p.name}{' (score chosen here)' if p.develop else ''}: {p.tau}", color=INK, fontsize=9)
        place.set_ylabel("test accuracy (%): mean, range over seeds")
    return drawn


HEAD = """| panel | setting | training | τ | 95 % | τ of two seeds | τ of the first panel's scores |
| :--- | :--- | :--- | ---: | ---: | ---: | ---: |"""
READING = """
Kendall's τ-b is between the score, taken before training, and the mean test accuracy; the interval is a bootstrap over
normalizers and seeds. *τ of two seeds* is between the accuracies of two trainings that differ by the seed alone, on
average: no score can be expected to do much better. The last column takes the scores of the first panel's network and
batch size instead of the panel's own.
"""


def report(panels: list[Panel], settings: Mapping[str, Mapping[str, Any]], results: Results) -> str:
    """Markdown."""
    runs = list(results.finished.values())
    minutes = sum(run.seconds for run in runs) / 60
    diverged = sum(run.status == "diverged" for run in runs)
    where = ", ".join(f"{label} {value}" for label, value in runs[0].environment.items())
    return "\n".join(
        [
            f"# screen\n\n{results.protocol.question}\n",
            f"{len(results.arms)} normalizers, {panels[0].tau.seeds} seeds. {PROTOCOL}\n",
            HEAD,
            *(_row(p, settings[p.name]) for p in panels),
            READING,
            *("- " + remark.strip().replace("\n", "\n  ") for remark in REMARKS),
            "\n![score and accuracy](agreement.svg)\n",
            *(line for p in panels for line in (f"## {p.name}\n", *table(p), "")),
            f"{len(runs)} runs in {minutes:.0f} minutes of computing, {diverged} diverged (chance level). {where}.\n",
        ]
    )


def _row(p: Panel, setting: dict[str, Any]) -> str:
    how = f"{setting['model']}, {setting['epochs']} epochs, lr {setting['lr']:g}"
    name = f"{p.name} (score chosen here)" if p.develop else f"**{p.name}**"
    numbers = f"{p.tau.tau:.2f} | [{p.tau.low:.2f}, {p.tau.high:.2f}] | {p.ceiling:.2f} | {p.transfer:.2f}"
    return f"| {name} | {p.setting} | {how} | {numbers} |"


def table(p: Panel) -> list[str]:
    """A row for each normalizer, best score first."""
    rows = ["| normalizer | score | verdict | accuracy, mean ± SD | reason |", "| :--- | ---: | :--- | ---: | :--- |"]
    for one in p.screening.ranked:
        values = list(p.accuracies[one.norm].values())
        spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
        rows.append(f"| {one.norm} | {one.score:.1f} | {one.verdict} | {fmean(values):.1f}{spread} | {one.reason} |")
    for one in p.screening.refused:
        rows.append(f"| {one.norm} | – | not ranked | {fmean(p.accuracies[one.norm].values()):.1f} | {one.reason} |")
    return rows
