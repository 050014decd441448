"""Documents with statistics made by hand, for the tests of the writers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from normlab.study.report.document import Document, Failure, Panel
from normlab.study.stats.compare import compare
from normlab.study.stats.paired import t_statistic
from normlab.study.stats.published import Published, Reproductions, reproduce
from normlab.study.stats.result import ArmSummary, Comparison, Comparisons, Finding, Scores, Settings, TestSet
from normlab.study.stats.stopping import Design, follow
from normlab.study.stats.stopping.judge import Stopping

UGLY = ("base <b>", "<script>alert(1)</script>", 'a_b & 50 % "γ"', "\\foo{$x^2$} 中|[red]é~#", "x\x1b[31my\nz " * 6)


def comparison(
    arm: str, seeds: tuple[str, ...], treatment: Any, control: Any, good: int = 1, **changes: Any
) -> Comparison:
    """A row whose numbers are near enough to what the statistics would give."""
    used = np.isfinite(treatment) & np.isfinite(control)
    t, c = treatment[used], control[used]
    n = len(t)
    diff = t - c
    sd = float(np.std(diff, ddof=1)) if n > 1 else math.nan
    se = sd / math.sqrt(n) if n > 1 else math.nan
    delta = float(diff.mean()) if n else math.nan
    d_z = (
        good * delta / sd
        if n > 1 and sd > 0
        else math.nan
        if n < 2
        else math.copysign(math.inf, good * delta)
        if delta
        else 0.0
    )
    p = 0.5 * math.erfc(d_z * math.sqrt(n) / math.sqrt(2)) if n > 1 else math.nan
    rho = float(np.corrcoef(t, c)[0, 1]) if n > 1 and t.std() > 0 and c.std() > 0 else math.nan
    half = 2.1 * se
    verdict = "no data" if n < 2 else "better" if p < 0.0125 else "worse" if p > 0.9875 else "unresolved"
    row = Comparison(
        arm=arm,
        seeds=tuple(np.array(seeds)[used].tolist()),
        treatment=t,
        control=c,
        mean=float(t.mean()) if n else math.nan,
        sd=float(np.std(t, ddof=1)) if n > 1 else math.nan,
        delta=delta,
        interval=(delta - half, delta + half),
        interval_bootstrap_t=(delta - 1.1 * half, delta + 1.05 * half),
        interval_signflip=(delta - 0.97 * half, delta + 0.98 * half),
        d_z=d_z,
        d_z_interval=(d_z - 0.6, d_z + 0.6),
        improvement=float(np.mean(good * diff > 0) + np.mean(diff == 0) / 2) if n else math.nan,
        improvement_interval=(0.4, 0.9) if n else (math.nan, math.nan),
        error_reduction=None,
        sd_ratio=1.1,
        sd_ratio_interval=(0.7, 1.6),
        sd_ratio_p=0.4,
        rho=rho,
        t=d_z * math.sqrt(n) if n > 1 else math.nan,
        p_t=p,
        p_signflip=p,
        p_wilcoxon=p,
        p_holm=min(4 * p, 1.0),
        p_holm_worse=min(4 * (1 - p), 1.0),
        p_equivalent=None,
        verdict=verdict,
        seeds_needed=n + 22 if verdict == "unresolved" else None,
        test_set=None,
        diverged=(),
        failed=(),
        missing=(),
        delta_without_diverged=None,
    )
    return replace(row, **changes)


def comparisons(scores: Scores, settings: Settings | None = None, **changes: Any) -> Comparisons:
    """All arms of the scores against the first."""
    base, *others = scores.arms
    settings = settings or Settings(baseline=base)
    values = dict(zip(scores.arms, scores.values, strict=True))
    good = 1 if settings.better == "higher" else -1
    rows = tuple(_row(arm, scores, values[arm], values[base], good) for arm in others)
    known = values[base][np.isfinite(values[base])]
    sd = float(np.std(known, ddof=1)) if len(known) > 1 else math.nan
    mean = float(known.mean()) if len(known) else math.nan
    baseline = ArmSummary(base, len(known), mean, sd, *(_of(base, which) for which in (scores.diverged, scores.failed)))
    return replace(Comparisons(scores, settings, baseline, rows, tuple(others), title="digits · resnet8"), **changes)


def _row(arm: str, scores: Scores, treatment: Any, control: Any, good: int) -> Comparison:
    failed = _of(arm, scores.failed)
    gone = tuple(s for s, x, y in zip(scores.seeds, treatment, control, strict=True) if not np.isfinite(x - y))
    diverged = _of(arm, scores.diverged)
    kept = np.array([s not in diverged for s in scores.seeds])
    without = float(np.nanmean((treatment - control)[kept])) if diverged else None
    missing = tuple(s for s in gone if s not in failed)
    marks = {"diverged": diverged, "failed": failed, "missing": missing, "delta_without_diverged": without}
    return comparison(arm, scores.seeds, treatment, control, good, **marks)


def _of(arm: str, pairs: frozenset[tuple[str, str]]) -> tuple[str, ...]:
    return tuple(sorted((seed for a, seed in pairs if a == arm), key=int))


def scores(means: dict[str, float], n: int = 15, sd: float = 0.4, **changes: Any) -> Scores:
    """Accuracies around the given means, with a share that belongs to the seed."""
    rng = np.random.default_rng(len(means))
    shared = rng.normal(0, sd * 0.5, n)
    values = np.stack([mean + shared + rng.normal(0, sd * 0.85, n) for mean in means.values()]).round(2)
    return replace(Scores("test_accuracy", tuple(means), tuple(map(str, range(1, n + 1))), values, unit="%"), **changes)


def curves(s: Scores, epochs: int = 60) -> dict[str, dict[str, Any]]:
    """Training curves that end at the scores."""
    rng = np.random.default_rng(1)
    rise = 1 - np.exp(-np.arange(1, epochs + 1) / 9)
    accuracy = {
        a: v[:, None] * rise + rng.normal(0, 1.2, (len(v), epochs)) for a, v in zip(s.arms, s.values, strict=True)
    }
    loss = {a: 2.3 * np.exp(-np.arange(epochs) / (9 + 3 * i)) + rng.gamma(2, 0.02, (len(s.seeds), epochs))
            for i, a in enumerate(s.arms)}  # fmt: skip
    for arm, seed in s.diverged:
        loss[arm][s.seeds.index(seed), 20:25] = 1e30
        loss[arm][s.seeds.index(seed), 25:] = np.nan
    return {"test_accuracy": accuracy, "train_loss": loss}


STUDY = {"base": 89.44, "γ 0.10": 90.8, "γ 0.25": 90.2, "γ 1.00": 89.65, "GN-32": 89.46}


def regular() -> Document:
    """Four arms, 15 seeds, two panels; all four verdicts, a test-set mark, an equivalence margin."""
    first = _panel(STUDY, "lr 0.02", verdicts=True)
    second = _panel({arm: mean - 2.5 + i * 0.1 for i, (arm, mean) in enumerate(STUDY.items())}, "lr 0.002")
    return Document(
        name="digits",
        panels=(first, second),
        question="Does a small initial BN scale help on 300 digits?",
        spec='question = "Does a small initial BN scale help?"\n[train]\nepochs = 60\n',
        arms={"base": "baseline", "GN-32": "norm(group)"}
        | {arm: f"revisited(scale={arm[2:]}, lr_divisor=100)" for arm in STUDY if arm.startswith("γ")},
        methods=(
            "The data are scikit-learn's digits, 300 images for training and 1,000 for testing.",
            "The model is resnet8(width=16), trained from scratch for 60 epochs by SGD with batches of 32.",
            "Seeds 1 to 15 decide initial values, data order and augmentation, the same in every arm.",
        ),
        environment={"torch": "2.13.0", "numpy": "2.4.6", "processor": "2 cores", "commit": "7b81b44"},
        runs=(150, 150),
        seconds=11530.0,
    )  # fmt: skip


def _panel(means: dict[str, float], where: str, *, verdicts: bool = False) -> Panel:
    s = scores(means)
    settings = Settings(baseline="base", equivalence=0.5)
    c = comparisons(s, settings, title=f"digits · resnet8(width=16) · {where}")
    if verdicts:
        examples = TestSet(1000, 0.08, 0.2, 0.25, (0.1, 0.9))
        rows = [replace(row, test_set=examples) for row in c.rows]
        rows[3] = replace(rows[3], verdict="equivalent", p_equivalent=0.001, seeds_needed=None)
        c = replace(c, rows=tuple(rows), findings=(Finding("note", "ceiling", "no arm is within 1 point of 100 %"),))
    return Panel(c, curves(s))


def diverged() -> Document:
    """A diverged seed, far from all others, counted as chance level."""
    s = scores({"base": 89.44, "γ 0.10": 90.8, "frozen γ": 89.9})
    values = s.values.copy()
    values[2, 6] = 10.0
    s = replace(s, values=values, diverged=frozenset({("frozen γ", "7")}), diverged_as="chance level, 10 %")
    warning = Finding("warning", "outlier", "frozen γ, seed 7: 10.0 is 60 SD below the others")
    return Document("diverged", (Panel(comparisons(s, findings=(warning,)), curves(s)),), runs=(45, 45))


def holes() -> Document:
    """Failed runs with tracebacks and missing seeds; one arm without any result."""
    s = scores({"base": 2.3, "γ 0.10": 2.1, "γ 0.25": 2.25, "nothing": 2.0}, n=8, sd=0.05, metric="test_loss", unit="")
    values = s.values.copy()
    values[1, 2] = values[2, 5:] = values[3] = values[0, 0] = np.nan
    failed = frozenset({("γ 0.10", "3"), ("nothing", "1"), ("base", "1")})
    s = replace(s, values=values, failed=failed)
    failures = tuple(
        Failure(arm, seed, "RuntimeError: <b>out & of</b> memory", f"runs/{arm}/{seed}/error.txt")
        for arm, seed in sorted(failed)
    )
    findings = Finding("error", "gap", "nothing has no finished run"), Finding("warning", "few", "5 seeds are few")
    settings = Settings(baseline="base", better="lower", alternative="two-sided")
    return Document("holes", (Panel(comparisons(s, settings, findings=findings)),), failures=failures, runs=(24, 32))


def ugly() -> Document:
    """Names that break Markdown, HTML, LaTeX, SVG and terminals where they are not escaped."""
    s = scores({name: 80 + i for i, name in enumerate(UGLY)}, n=5, metric="acc_<5>%")
    c = comparisons(
        s, title="<i>t</i> & | $ % _ ` *", notes=("a <note>",), findings=(Finding("note", "x", "<img src=x>"),)
    )
    failure = Failure(
        UGLY[1], "1", "ValueError: </details><script>", "Traceback\n  <script>alert(2)</script>\nValueError"
    )
    text = {"question": 'Is <script>alert(0)</script> & "x" better?', "spec": "```\n</pre><script>\n"}
    arms = dict.fromkeys(UGLY, "norm(<b>)")
    return Document(
        "ugly <name>/..", (Panel(c, curves(s)),), arms=arms, failures=(failure,), environment={"<k>": "<v>"}, **text
    )


def flat() -> Document:
    """No spread at all, NaN intervals, infinite effect size."""
    s = Scores("accuracy", ("base", "same", "shifted"), ("1", "2", "3"), np.array([[50.0] * 3, [50.0] * 3, [51.0] * 3]))
    c = comparisons(s)
    nan = (math.nan, math.nan)
    blank = dict.fromkeys(("interval", "interval_bootstrap_t", "interval_signflip", "d_z_interval"), nan)
    return Document("flat", (Panel(replace(c, rows=tuple(replace(row, **blank) for row in c.rows))),))


def one_arm() -> Document:
    """A baseline and one treatment, two seeds."""
    s = scores({"base": 70.0, "new": 71.0}, n=2)
    return Document("one", (Panel(comparisons(s), curves(s, 1)),))


def alone() -> Document:
    """A baseline without anything to compare it with."""
    return Document("alone", (Panel(comparisons(scores({"base": 70.0}))),))


def twelve() -> Document:
    """Twelve treatments with long names, 50 seeds."""
    names = {f"norm(group, num_groups={2**i}) with a name far too long": 75 + 0.12 * i for i in range(12)}
    s = scores({"base": 75.2, **names}, n=50, sd=0.9)
    return Document("twelve", (Panel(comparisons(s), curves(s)),))


def real() -> Document:
    """What `compare` gives: a gain, a small gain, nothing, a loss; a diverged, a failed and a missing run."""
    s = scores({"base": 89.44, "γ 0.10": 90.8, "γ 0.25": 89.7, "none": 89.44, "loss": 88.4})
    values = s.values.copy()
    values[2, 6], values[3, 1], values[4, 2] = 10.0, np.nan, np.nan
    hardness = np.random.default_rng(7).random((5, 15, 10_000)).argsort(axis=2)  # which examples go wrong
    right = dict(zip(s.arms, hardness < np.nan_to_num(values)[:, :, None].round(2) * 100, strict=True))
    s = replace(s, values=values, diverged=frozenset({("γ 0.25", "7")}), failed=frozenset({("none", "2")}))
    s = replace(s, diverged_as="chance level, 10 %", correct=right)
    settings = Settings(baseline="base", equivalence=0.5, resamples=200)
    return Document("real", (Panel(compare(s, settings, "digits · resnet8"), curves(s)),), runs=(74, 75))


def published() -> Document:
    """Published numbers with and without spread, of arms with all, one and no result; nothing for the second table."""
    s = scores({"base": 89.3, "γ 0.10": 90.7, "γ <0.25>": 90.4, "nothing": 1.0, "unknown": 88.0}, n=4)
    values = s.values.copy()
    values[2, 1:] = values[3] = np.nan
    s = replace(s, values=values)
    numbers = {
        "base": Published(89.44, 0.45, 15),
        "γ 0.10": Published(92.8, 0.2, 15),
        "γ <0.25>": Published(90.32, 0.24, 15),
        "nothing": Published(90.0),
    }
    rows = tuple(reproduce(s, arm, number) for arm, number in numbers.items())
    beside = Reproductions("Davis & Frank, <table> 1(a)", 0.95, rows, ("train.epochs=2",), ("train.lr=0.001",))
    panels = Panel(comparisons(s), published=beside), Panel(comparisons(s), published=replace(beside, rows=()))
    return Document("published", panels)


def stopping() -> Document:
    """A gain, a loss, something given up and something undecided, under group-sequential bounds and anytime."""
    s = scores({"base": 89.44, "γ 0.10": 90.2, "loss": 88.9, "none": 89.4, "some": 89.6}, n=20)
    panels = []
    for rule, numbers, futility in (("pocock", (5, 10, 15, 20), 0.1), ("anytime", tuple(range(2, 21)), 0.0)):
        design = Design(rule, numbers, futility=futility)
        t = np.array([[t_statistic((row - s.values[0])[:n]) for n in numbers] for row in s.values[1:]])
        courses = dict(zip(s.arms[1:], follow(t, design), strict=True))
        used = {arm: numbers[course.looks - 1] for arm, course in courses.items()}
        unused = frozenset((arm, seed) for arm, n in used.items() for seed in s.seeds[n:])
        values = np.where([[(arm, seed) in unused for seed in s.seeds] for arm in s.arms], np.nan, s.values)
        seen, settings = replace(s, values=values, unused=unused), Settings(baseline="base", resamples=200)
        panels.append(Panel(compare(seen, settings, rule, Stopping(design, courses))))
    return Document("stopping", tuple(panels))


ALL = (real, stopping, published, regular, diverged, holes, ugly, flat, one_arm, alone, twelve)
