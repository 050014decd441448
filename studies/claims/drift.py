"""Claim: γ and β barely drift from their initial values, and |x̂| > 6 occurs (Davis and Frank, arXiv:2110.13989).

    python studies/claims/drift.py

Trains resnet8(width=16) on 1,000 digits with BatchNorm as it is and with the paper's recipe, and follows γ, β, the
convolutions and the normalized values with `normlab.probe`. Cost: 16 runs of 7 s on one core.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

import normlab
from normlab.landscape.figures import legend, panels
from normlab.page import canvas
from normlab.probes import probe
from normlab.study.data import load
from normlab.study.job import DataSpec
from normlab.study.models import create_model

SEEDS, EPOCHS, BATCH, LR = 8, 20, 50, 0.1
ARMS = {
    "γ₀ = 1": "baseline(input_norm=False)",
    "γ₀ = 0.1, lr / 100": "revisited(scale=0.1, lr_divisor=100, input_norm=False)",
}
BASE = "γ₀ = 1"
BARELY = 0.1  # a mean drift below a tenth of the initial γ = 1; chosen before the runs
GAUSSIAN = 1.973e-9  # P(|x| > 6)
ADDED = ("weight_drift", "bias_drift", "large_values")


def train(arm, streams, context):
    """One run: SGD with momentum, half cosine; every epoch's last step is measured."""
    data = load(DataSpec(name="digits(train=1000, validation=300)")).train
    images, labels = torch.from_numpy(data.images).float() / 16, torch.from_numpy(data.labels)
    recipe = normlab.recipe(arm)
    model = recipe.prepare(create_model("resnet8(width=16)", in_channels=1, num_classes=10), streams=streams)
    optimizer = torch.optim.SGD(recipe.param_groups(model, lr=LR, weight_decay=1e-4), lr=LR, momentum=0.9)
    first = {name: p.detach().clone() for name, p in model.named_parameters()}
    start, saved = 0, context.restore()
    if saved is not None:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first, start = saved["first"], saved["epoch"]
    rates = [group.setdefault("initial_lr", group["lr"]) for group in optimizer.param_groups]
    steps = len(labels) // BATCH
    model.train()
    for epoch in range(start, EPOCHS):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (1 + math.cos(math.pi * epoch / EPOCHS)) / 2
        order = torch.from_numpy(streams.numpy("shuffle", epoch).permutation(len(labels)))
        with probe(model, "large_values", every=1) as probes:
            for part in order.split(BATCH)[:steps]:
                loss = nn.functional.cross_entropy(model(images[part]), labels[part])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        if not math.isfinite(float(loss.detach())):
            raise normlab.Diverged(f"loss is {float(loss.detach())} in epoch {epoch + 1}")
        context.log(epoch=epoch + 1, loss=float(loss.detach()), **moved(model, first), **large(model, probes.rows))
        state = {"epoch": epoch + 1, "model": model.state_dict(), "optimizer": optimizer.state_dict(), "first": first}
        context.checkpoint(state, done=(epoch + 1) / EPOCHS)
    return {"gamma_drift": context.rows[-1]["gamma_drift"], "last_loss": context.rows[-1]["loss"]}


def moved(model, first):
    """Mean |γ - γ₀| and |β| over all channels, the largest, and how far the kernels went, relative to their length."""
    now = dict(model.named_parameters())
    norms = {id(p): role for site in normlab.surgery.norm_sites(model) for role, p in named(site)}
    off = {
        role: torch.cat([(now[n] - first[n]).detach() for n in now if norms.get(id(now[n])) == role])
        for role in ("weight", "bias")
    }
    start = torch.cat([first[n] for n in now if norms.get(id(now[n])) == "weight"])
    kernels = [(now[n].detach() - first[n], first[n]) for n in now if now[n].dim() == 4]
    return {
        "gamma_drift": float(off["weight"].abs().mean()),
        "gamma_drift_max": float(off["weight"].abs().max()),
        "gamma_relative": float(off["weight"].norm() / start.norm()),
        "beta_drift": float(off["bias"].abs().mean()),
        "beta_drift_max": float(off["bias"].abs().max()),
        "kernels_relative": float(
            sum(d.square().sum() for d, _ in kernels) ** 0.5 / sum(w.square().sum() for _, w in kernels) ** 0.5
        ),
    }


def named(site):
    """Its γ and β by role."""
    pair = normlab.surgery.affine_params(site.module)
    return [(role, p) for role, p in (("weight", pair.weight), ("bias", pair.bias)) if p is not None]


def large(model, rows):
    """Of all normalized values of an epoch, the share beyond 6, and how many these are; the layer that has most."""
    sizes = normalized_values(model)
    shares = {name: float(np.mean([row[f"norm/{name}/large_values"] for row in rows])) for name in sizes}
    count = sum(share * sizes[name] for name, share in shares.items()) * len(rows)
    total = sum(sizes.values()) * len(rows)
    return {"large": count / total, "large_count": count, "values": float(total), "large_worst": max(shares.values())}


def normalized_values(model):
    """By norm, how many values a batch has there."""
    found: dict[str, int] = {}
    hooks = [
        site.module.register_forward_hook(lambda _, args, __, name=site.name: found.update({name: args[0].numel()}))
        for site in normlab.surgery.norm_sites(model)
    ]
    with torch.no_grad(), normlab.frozen_stats(model):
        model(torch.zeros(BATCH, 1, 8, 8))
    for hook in hooks:
        hook.remove()
    return found


def main() -> None:
    """Run what is missing, then write results/claims/drift."""
    import writing as w

    study = normlab.Study(arms=ARMS, seeds=SEEDS, train=train, metric="gamma_drift", better="lower", name="claim_drift")
    results = study.run(workers=1)
    w.write(
        "drift",
        report(results, w),
        raw(results, w),
        {"drift": w.svg(lambda: draw(results, w), "drift", "Drift of γ and β, and normalized values beyond 6")},
    )


def curve(result, name):
    """A logged curve."""
    return np.array(result.curves[name], dtype=float)


def raw(results, w):
    """A line for each arm, seed and epoch."""
    for arm in results.arms:
        for seed, result in sorted(w.finished(results, arm).items()):
            for k in range(len(result.curves["epoch"])):
                yield {"arm": arm, "seed": seed} | {name: values[k] for name, values in result.curves.items()}


def last(results, w, arm, name):
    """The value after training, by seed."""
    return {seed: float(curve(result, name)[-1]) for seed, result in w.finished(results, arm).items()}


def share(result):
    """Of the values beyond 6, over all epochs; at least one in all values, so that it has a logarithm."""
    values = curve(result, "values").sum()
    return max(float(curve(result, "large_count").sum()), 1.0) / values


def tests(results, w, arm):
    """What is above 0, or a factor above 1, where the claim holds."""
    runs = w.finished(results, arm)
    gamma, beta = (last(results, w, arm, name).values() for name in ("gamma_drift", "beta_drift"))
    kernels, relative = (last(results, w, arm, name) for name in ("kernels_relative", "gamma_relative"))
    faster = [math.log10(kernels[seed] / relative[seed]) for seed in kernels]
    beyond = [math.log10(share(run) / GAUSSIAN) for run in runs.values()]
    return [
        w.Row(f"{BARELY} − mean \\|γ − γ₀\\|", [BARELY - value for value in gamma]),
        w.Row(f"{BARELY} − mean \\|β\\|", [BARELY - value for value in beta]),
        w.Row(f"{BARELY} − γ's drift relative to its length", [BARELY - value for value in relative.values()]),
        w.Row("relative drift, kernels over γ", faster, log=True),
        w.Row("share beyond 6 over a Gaussian's", beyond, log=True),
    ]


def fewer(results, w):
    """Values beyond 6 at γ₀ = 1 over those of the paper's recipe."""
    base, small = (w.finished(results, arm) for arm in ARMS)
    shared = sorted(base.keys() & small.keys())
    return [
        w.Row(
            "share beyond 6, γ₀ = 1 over the paper's recipe",
            [math.log10(share(base[seed]) / share(small[seed])) for seed in shared],
            log=True,
        )
    ]


def said(results, w, arm, rows):
    """The verdict of an arm, in a line."""
    words = zip(rows, w.verdicts(rows), strict=True)
    against = "; ".join(f"{row.what} is below 0" for row, word in words if word == w.OPPOSITE)
    relative = 100 * np.mean([*last(results, w, arm, "gamma_relative").values()])
    beta = np.mean([*last(results, w, arm, "beta_drift").values()])
    return (
        f"- {arm}: {w.headline(rows)}; {w.tally(rows)}. γ moves {relative:.1f} % of its length, β ends {beta:.3g} from "
        f"0 on the mean.{f' Against the claim: {against}.' if against else ''}"
    )


def facts(results, w, arm):
    """One arm in numbers: means over channels and seeds."""
    runs = [*w.finished(results, arm).values()]

    def end(name, of=np.mean):
        return of([curve(run, name)[-1] for run in runs])

    counts = [curve(run, "large_count").sum() for run in runs]
    worst = max(curve(run, "large_worst").max() for run in runs)
    return (
        f"- {arm}: γ ends {end('gamma_drift'):.3g} from its initial value (largest "
        f"{end('gamma_drift_max', max):.2g}), β {end('beta_drift'):.3g} (largest {end('beta_drift_max', max):.2g}). "
        f"Kernels moved by {100 * end('kernels_relative'):.0f} % of their length, γ by "
        f"{100 * end('gamma_relative'):.1f} %. Beyond 6 are {np.mean(counts):,.0f} values a run, "
        f"{100 * np.mean([*map(share, runs)]):.2g} % of all; there are some in {sum(count > 0 for count in counts)} "
        f"of {len(runs)} runs, and at most {100 * worst:.2g} % of a layer's values in an epoch."
    )


def report(results, w):
    """The page."""
    families = {arm: tests(results, w, arm) for arm in ARMS}
    between = fewer(results, w)
    return "\n\n".join(
        [
            "# γ and β barely drift, and |x̂| > 6 occurs",
            "Claim: Davis and Frank, *Revisiting Batch Norm Initialization*, arXiv:2110.13989. After training, γ and "
            "β have not moved much from 1 and 0, and normalization still gives values beyond 6, of which a Gaussian "
            "has two in 10⁹.",
            f"**Verdict**: {w.headline(*families.values())}.",
            "\n".join(said(results, w, arm, rows) for arm, rows in families.items()),
            w.header(results, "drift.py"),
            f"Setting: resnet8(width=16) on 1,000 digits of 8×8, {EPOCHS} epochs of batches of {BATCH}, SGD "
            f"(learning rate {LR}, momentum 0.9, half cosine, decay 1e-4 on kernels), {SEEDS} paired seeds. “Barely” "
            f"was fixed before the runs: a mean distance below {BARELY}, which is a tenth of γ₀ = 1 and all of γ₀ = "
            "0.1; so the drift of γ relative to its length is tested against the same number, which was added after "
            f"the runs. x̂ is taken by `normlab.probe` at every step, before γ and β. {w.diverged(results)}",
            "![drift](drift.svg)",
            "\n".join(facts(results, w, arm) for arm in ARMS),
            "Above 0, or a factor above 1: as the claim says.",
            *(part for arm, rows in families.items() for part in (f"## {arm}", w.table(rows))),
            "## Both",
            w.table(between),
            "p: exact sign-flip test over seeds, two-sided, Holm within a table; CI: t, not adjusted.",
        ]
    )


def draw(results, w):
    """Over epochs, all seeds."""
    titles = ["mean |γ − γ₀|", "mean |β|", "relative drift: kernels - -, γ —", "|x̂| > 6, per million"]
    fig, axes = panels(titles)
    for arm, colour in zip(ARMS, canvas.ARMS, strict=False):
        runs = [*w.finished(results, arm).values()]
        if not runs:
            continue
        epochs = curve(runs[0], "epoch")
        units = {"gamma_drift": 1, "beta_drift": 1, "gamma_relative": 1, "large": 1e6}
        for ax, (name, unit) in zip(axes, units.items(), strict=True):
            w.band(ax, epochs, [curve(run, name) * unit for run in runs], colour, arm)
        kernels = np.median([curve(run, "kernels_relative") for run in runs], 0)
        axes[2].plot(epochs, kernels, color=colour, linewidth=1.8, linestyle="--")
    for ax in axes:
        ax.set_xlabel("epoch", fontsize=8.5)
        canvas.whole_ticks(ax)
    legend(axes[0])
    return fig


if __name__ == "__main__":
    main()
