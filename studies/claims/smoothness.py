"""Claim: batch normalization makes the loss smoother (Santurkar et al., arXiv:1805.11604, sec. 3.1 and figure 4).

    python studies/claims/smoothness.py

Trains a plain convolutional network on 300 digits with BatchNorm, without any norm, and with norms that are fixed after
their first batch, at three learning rates, and walks along the gradient every ten steps.
Cost: 90 runs of 1 to 3 s on one core.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

import normlab
from normlab.landscape.figures import legend_below, logarithmic, panels
from normlab.landscape.fixed import Fixed
from normlab.page import canvas
from normlab.probes import internal_covariate_shift, landscape
from normlab.recipes.fan_in import init_fan_in
from normlab.study.data import load
from normlab.study.job import DataSpec

SEEDS, STEPS, EVERY, BATCH = 10, 150, 10, 50
RATES = (0.03, 0.1, 0.3)
NORMS = {"BatchNorm": "batch", "no norm": "none", "fixed norm": "fixed"}
SHARES = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)
QUANTITIES = {
    "variation": "loss variation",
    "predictiveness": "gradient predictiveness",
    "beta": "effective β-smoothness",
    "lipschitz": "Lipschitz constant",
}


def network(norm: str) -> nn.Module:
    """Four convolutions with ReLU, as in VGG without its pooling; all of them with a bias."""
    layers: list[nn.Module] = []
    for inside, outside, stride in [(1, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1)]:
        layers.append(nn.Conv2d(inside, outside, 3, stride, padding=1))
        if norm != "none":
            layers.append(nn.BatchNorm2d(outside) if norm == "batch" else Fixed(outside))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def build(norm: str, streams: normlab.Streams) -> nn.Module:
    """He's initial values, the same in all arms of a seed."""
    model = network(norm)
    convolutions = [m for m in model if isinstance(m, (nn.Conv2d, nn.Linear))]
    init_fan_in(nn.Sequential(*convolutions), streams)
    return model


def train(arm, streams, context):
    """One run: SGD without momentum; what is measured goes into the curves of the run."""
    data = load(DataSpec(name="digits(train=300)")).train
    images, labels = torch.from_numpy(data.images).float() / 16, torch.from_numpy(data.labels)
    model = build(arm["norm"], streams)
    first = images[torch.from_numpy(streams.numpy("shuffle", 0).permutation(len(labels)))[:BATCH]]
    if arm["norm"] == "fixed":
        with torch.no_grad():
            model(first)
    optimizer = torch.optim.SGD(model.parameters(), lr=arm["lr"])
    start, saved = 0, context.restore()
    if saved is not None:
        model.load_state_dict(saved["model"])
        start = saved["step"]
    model.train()
    for step in range(start, STEPS + 1):
        epoch, number = divmod(step * BATCH, len(labels))
        order = torch.from_numpy(streams.numpy("shuffle", epoch).permutation(len(labels)))
        x, y = (values[order[number : number + BATCH]] for values in (images, labels))

        def loss(x=x, y=y):
            return nn.functional.cross_entropy(model(x), y)

        if step % EVERY == 0:
            context.log(step=step, **measured(model, loss, arm["lr"]))
        found = loss()
        if not math.isfinite(float(found.detach())):
            raise normlab.Diverged(f"loss is {float(found.detach())} at step {step}")
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
        context.checkpoint({"step": step + 1, "model": model.state_dict()}, done=(step + 1) / (STEPS + 1))
    values = [row["variation"] for row in context.rows]
    return {"log_variation": float(np.log10(np.median(values))), "last_loss": context.rows[-1]["loss"]}


def measured(model, loss, lr):
    """Santurkar's quantities, and the covariate shift, at the weights of now."""
    walk = landscape(model, loss, step_sizes=[lr * share for share in SHARES])
    shift = internal_covariate_shift(model, loss, lr=lr)
    kernels = {name for name, module in model.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))}
    turned = [cosine for layer, cosine in zip(shift.layers, shift.cosines, strict=True) if layer in kernels]
    return {
        "loss": walk.loss,
        "variation": walk.loss_variation[1] - walk.loss_variation[0],
        "predictiveness": walk.predictiveness[1],
        "beta": walk.effective_beta,
        "lipschitz": walk.lipschitz,
        "ics_cosine": float(np.nanmedian(turned[1:])),
    }


def main() -> None:
    """Run what is missing, then write results/claims/smoothness."""
    import writing as w

    arms = {f"{name}, lr {lr:g}": {"norm": norm, "lr": lr} for lr in RATES for name, norm in NORMS.items()}
    study = normlab.Study(
        arms=arms, seeds=SEEDS, train=train, metric="log_variation", better="lower", name="claim_smoothness"
    )
    results = study.run(workers=1)
    title = "Santurkar's curves, with and without BatchNorm, learning rate"
    figures = {
        f"curves_{lr:g}": w.svg(lambda lr=lr: draw(results, w, lr), f"lr{lr:g}", f"{title} {lr:g}") for lr in RATES
    }
    w.write("smoothness", report(results, w), raw(results, w), figures)


def curves(result, name):
    """A logged curve, with infinity where a walk left the numbers."""
    return np.array([math.inf if value is None else value for value in result.curves[name]])


def step_by_step(batch, other, name):
    """The median over training of log10 of the factor; above 0 where BatchNorm has less."""
    with np.errstate(all="ignore"):
        ratios = np.log10(np.minimum(curves(other, name), 1e30)) - np.log10(np.minimum(curves(batch, name), 1e30))
    return float(np.median(ratios))


def at_equal_loss(batch, other, name):
    """The same where both have the same loss, interpolated in its logarithm."""
    theirs = sorted(zip(curves(other, "loss"), curves(other, name), strict=True))
    losses, values = (np.array(part) for part in zip(*theirs, strict=True))
    mine, own = curves(batch, "loss"), curves(batch, name)
    inside = (mine >= losses[0]) & (mine <= losses[-1])
    if not inside.any():
        return math.nan
    found = np.interp(np.log(mine[inside]), np.log(losses), np.log10(np.minimum(values, 1e30)))
    return float(np.median(found - np.log10(own[inside])))


def rows(results, w, how, other, lr):
    """A row for each quantity."""
    a, b = w.finished(results, f"BatchNorm, lr {lr:g}"), w.finished(results, f"{other}, lr {lr:g}")
    seeds = sorted(a.keys() & b.keys())
    return [
        w.Row(f"{words}, lr {lr:g}", [how(a[seed], b[seed], name) for seed in seeds], log=True)
        for name, words in QUANTITIES.items()
    ]


def raw(results, w):
    """A line for each arm, seed and point."""
    for arm in results.arms:
        for seed, result in sorted(w.finished(results, arm).items()):
            for k, step in enumerate(result.curves["step"]):
                yield {"arm": arm, "seed": seed, "step": int(step)} | {
                    name: result.curves[name][k] for name in ("loss", *QUANTITIES, "ics_cosine")
                }


def unmatched(results, w):
    """Why the rows at equal loss have fewer seeds, in a sentence."""
    found = []
    for lr in RATES:
        a = w.finished(results, f"BatchNorm, lr {lr:g}")
        for other in ("no norm", "fixed norm"):
            b = w.finished(results, f"{other}, lr {lr:g}")
            missing = [s for s in sorted(a.keys() & b.keys()) if math.isnan(at_equal_loss(a[s], b[s], "variation"))]
            if missing:
                found.append(f"{other}, lr {lr:g}: {len(missing)}")
    if not found:
        return "At equal loss, both networks reached a loss in common in all seeds."
    return f"At equal loss, seeds in which the two networks reached no loss in common are left out: {', '.join(found)}."


def shift_rows(results, w):
    """Is the covariate shift smaller with BatchNorm? The paper says that it is not."""
    found = []
    for lr in RATES:
        a, b = w.finished(results, f"BatchNorm, lr {lr:g}"), w.finished(results, f"no norm, lr {lr:g}")
        seeds = sorted(a.keys() & b.keys())
        values = [
            float(np.nanmedian(curves(b[s], "ics_cosine")) - np.nanmedian(curves(a[s], "ics_cosine"))) for s in seeds
        ]
        found.append(w.Row(f"cosine without BatchNorm − with, lr {lr:g}", values))
    return found


def loss_facts(results, w):
    """How far each arm has learned, at each rate."""
    for lr in RATES:
        runs = {name: [*w.finished(results, f"{name}, lr {lr:g}").values()] for name in NORMS}
        words = [f"{name} {np.median([run.metrics['last_loss'] for run in found]):.2g}" for name, found in runs.items()]
        yield f"learning rate {lr:g}: {', '.join(words)}"


def report(results, w):
    """The page."""
    families = {
        (other, how): [row for lr in RATES for row in rows(results, w, how, other, lr)]
        for other in ("no norm", "fixed norm")
        for how in (step_by_step, at_equal_loss)
    }
    shifts = shift_rows(results, w)
    words = {step_by_step: "step by step", at_equal_loss: "at equal loss"}
    names = {"no norm": "Against the network without norms", "fixed norm": "Against fixed norms"}
    verdicts = [f"- {names[other]}, {words[how]}: {w.tally(found)}." for (other, how), found in families.items()]
    verdicts.append(f"- That BatchNorm does not reduce the covariate shift: {w.tally(shifts)}.")
    paragraphs = [
        "# BatchNorm makes the loss smoother",
        "Claim: Santurkar et al., *How Does Batch Normalization Help Optimization?*, arXiv:1805.11604. Along the "
        "gradient the loss varies less with BatchNorm, gradients stay predictive for longer, and the effective "
        "β-smoothness is smaller; internal covariate shift is not what is reduced.",
        f"**Verdict**: {w.headline(*families.values())}. Of the comparisons below:",
        "\n".join(verdicts),
        w.header(results, "smoothness.py"),
        f"Setting: four 3×3 convolutions with ReLU on 300 digits of 8×8, batches of {BATCH}, {STEPS} steps of SGD "
        f"without momentum, {SEEDS} paired seeds: the same initial values (He) and batches. Every {EVERY} steps the "
        "loss and its gradient are taken at half to four times the learning rate along the gradient, on the batch "
        "that comes next. A factor above 1: BatchNorm has less of it, as the claim says. Per seed it is the median, "
        "over the steps measured, of the logarithm of the ratio at each step (or at each loss), which is not the ratio "
        f"of two medians; over seeds the geometric mean. {w.diverged(results)} {unmatched(results, w)}",
        f"Loss on the last batch, median over seeds: {'; '.join(loss_facts(results, w))}. A network that has not "
        "begun to learn is flat, and one that has learned everything is, too: that is why both ways to compare are "
        "shown.",
        *(f"![curves at learning rate {lr:g}](curves_{lr:g}.svg)" for lr in RATES),
    ]
    for other, title in (
        ("no norm", "Against the same network without norms (the comparison of the paper)"),
        ("fixed norm", "Against norms that are fixed after the first batch (both begin as the same function)"),
    ):
        for how, said in ((step_by_step, "step by step"), (at_equal_loss, "at equal loss")):
            paragraphs += [f"## {title}, {said}", w.table(families[other, how])]
    paragraphs += [
        "## Internal covariate shift",
        "Median over layers and training of the cosine between a layer's gradient before and after the layers before "
        "it have learned: above 0 the gradient turns more with BatchNorm, so the shift is not what BatchNorm reduces. "
        "Convolutions and the fully connected layer, of which all networks have the same, without the first; γ and β "
        "of BatchNorm learn, too, before the layers behind them, but their own gradients are left out.",
        w.table(shifts),
        READING,
    ]
    return "\n\n".join(paragraphs)


READING = "p: exact sign-flip test over seeds, two-sided, Holm within a table; CI: paired t, not adjusted."


def draw(results, w, lr):
    """The curves of the paper's figure 4, over steps, and the loss."""
    fig, axes = panels(["loss", "loss variation", "predictiveness", "effective β", "Lipschitz"], below=0.3)
    for arm, colour in zip(NORMS, canvas.ARMS, strict=False):
        runs = [*w.finished(results, f"{arm}, lr {lr:g}").values()]
        if not runs:
            continue
        steps = curves(runs[0], "step")
        for ax, name in zip(axes, ("loss", *QUANTITIES), strict=True):
            w.band(ax, steps, [np.where(np.isfinite(c := curves(run, name)), c, np.nan) for run in runs], colour, arm)
    for ax in axes:
        ax.set_xlabel(f"step, lr {lr:g}", fontsize=8.5)
        logarithmic(ax)
    legend_below(fig, axes[0])
    return fig


if __name__ == "__main__":
    main()
