"""Claim: a small initial scale γ₀ cancels (Davis and Frank, arXiv:2110.13989, Eqs. 12 to 16).

    python studies/claims/cancellation.py

Takes resnet8(width=16) at its initial values with scales from 1 to 0.01, with and without eps, and measures γ/σ of
every layer, what the network computes, and every gradient. Nothing is trained. Cost: 180 runs of half a second.
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

SEEDS = 10
SCALES = (1.0, 0.5, 0.25, 0.1, 0.05, 0.01)
INPUT = "eps 1e-5, input norm"
NEAR = 0.1  # how far an exponent may be from the derived one
YES_NO = {True: "yes", False: "no"}
KINDS = {"exact": (1e-30, False), "eps 1e-5": (1e-5, False), INPUT: (1e-5, True)}
SLOPES = {  # exponent of γ₀ that Eq. 12 gives each of these
    "first kernel": 1,
    "other kernels": 1,
    "classifier": 1,
    "γ": 0,
    "β": 0,
    "step of γ, relative to γ": -1,
}


def train(arm, streams, context):
    """One network at its initial values, in float64; nothing is trained."""
    data = load(DataSpec(name="digits(train=300)")).train
    order = torch.from_numpy(streams.numpy("shuffle", 0).permutation(len(data.labels)))[:100]
    x, y = torch.from_numpy(data.images).double()[order] / 16, torch.from_numpy(data.labels)[order]
    model = build(arm, streams)
    parameters = dict(model.named_parameters())
    with probe(model, "gradient_factor") as probes, seen(model) as inside:
        logits = model(x)
        loss = nn.functional.cross_entropy(logits, y)
        delta = torch.randn(logits.shape, generator=streams.torch("delta"), dtype=logits.dtype)
        fixed = (logits * delta).mean()  # a loss whose gradient at the logits is the same whatever they are
        found = {}
        for name, value in (("cross-entropy", loss), ("fixed δ", fixed)):
            gradients = torch.autograd.grad(value, [*parameters.values()], retain_graph=True)
            found |= {f"{name}: {part}": v for part, v in lengths(model, parameters, gradients).items()}
    for k, site in enumerate(normlab.surgery.norm_sites(model)):
        context.log(layer=k, factor=probes.last[f"norm/{site.name}/gradient_factor"])
    size = float((logits - logits.mean(0)).detach().norm())
    return {"loss": float(loss.detach()), "direction": direction(inside[-1], arm, streams, x), "logits": size, **found}


def lengths(model, parameters, gradients):
    """Of the gradients of each kind of parameter."""
    by_name = dict(zip(parameters, gradients, strict=True))
    first, *others = [n for n, p in parameters.items() if p.dim() == 4]
    pairs = [normlab.surgery.affine_params(site.module) for site in normlab.surgery.norm_sites(model)]
    gammas = [n for n, p in parameters.items() if any(p is pair.weight for pair in pairs)]
    betas = [n for n, p in parameters.items() if any(p is pair.bias for pair in pairs)]
    classifier = [n for n, p in parameters.items() if p.dim() == 2]
    kinds = {"first kernel": [first], "other kernels": others, "classifier": classifier, "γ": gammas, "β": betas}
    found = {name: length(by_name, names) for name, names in kinds.items()}
    return found | {"step of γ, relative to γ": found["γ"] / length(parameters, gammas)}


def build(arm, streams):
    """resnet8 with He's initial values, the same in all arms of a seed."""
    eps, input_norm = KINDS[arm["kind"]]
    recipe = normlab.recipe(f"init_only(scale={arm['scale']}, input_norm={input_norm})")
    network = create_model("resnet8(width=16)", in_channels=1, num_classes=10).double()  # first: γ₀ is not rounded then
    model = recipe.prepare(network, streams=streams)
    for site in normlab.surgery.norm_sites(model):
        site.module.eps = eps
    return model


def seen(model):
    """Gathers what enters the classifier."""
    return Inputs(model)


class Inputs:
    """A context that lists what a network's last linear layer gets."""

    def __init__(self, model):
        self.layer = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]

    def __enter__(self):
        self.found = []
        self.hook = self.layer.register_forward_pre_hook(lambda _, args: self.found.append(args[0].detach()))
        return self.found

    def __exit__(self, *_):
        self.hook.remove()


def direction(features, arm, streams, x):
    """How far the features [N, C] differ from those of the same network with γ₀ = 1, but for their scale."""
    model = build({**arm, "scale": 1.0}, streams)
    with seen(model) as inside, torch.no_grad():
        model(x)
    reference = inside[-1]
    scale = (features * reference).sum() / reference.square().sum()
    return float((features - scale * reference).norm() / features.norm())


def length(values, names):
    """The joint 2-norm."""
    return float(torch.stack([values[n].detach().square().sum() for n in names]).sum().sqrt())


def main() -> None:
    """Run what is missing, then write results/claims/cancellation."""
    import writing as w

    arms = {f"γ₀ {scale:g}, {kind}": {"scale": scale, "kind": kind} for kind in KINDS for scale in SCALES}
    study = normlab.Study(arms=arms, seeds=SEEDS, train=train, metric="loss", better="lower", name="claim_cancellation")
    results = study.run(workers=1)
    w.write(
        "cancellation",
        report(results, w),
        raw(results, w),
        {
            "cancellation": w.svg(
                lambda: draw(results, w), "cancellation", "What a small initial scale changes, and what not"
            )
        },
    )


def raw(results, w):
    """A line for each arm and seed; γ/σ by norm, from the first to the last."""
    for arm in results.arms:
        for seed, result in sorted(w.finished(results, arm).items()):
            by_norm = {f"factor_{k + 1}": factor for k, factor in enumerate(result.curves["factor"])}
            yield {"arm": arm, "seed": seed, **result.metrics, **by_norm}


def factors(results, w, kind, scale):
    """γ/σ [seeds, norms]."""
    runs = w.finished(results, f"γ₀ {scale:g}, {kind}")
    return np.array([runs[seed].curves["factor"] for seed in sorted(runs)])


def slope(results, w, kind, name):
    """By seed, the exponent of γ₀ in a quantity: least squares over the logarithms, γ₀ from 1 to 0.05."""
    scales = [scale for scale in SCALES if scale >= 0.05]
    runs = [w.finished(results, f"γ₀ {scale:g}, {kind}") for scale in scales]
    seeds = sorted(set.intersection(*(set(one) for one in runs)))
    return [float(np.polyfit(np.log(scales), np.log([one[s].metrics[name] for one in runs]), 1)[0]) for s in seeds]


def cancels(results, w):
    """A table: how far γ/σ is from that at γ₀ = 1, with and without eps."""
    lines = [
        "| γ₀ | norms 2 to 9, eps = 0 | norm 1 over γ₀, eps = 0 | the same, eps = 1e-5 and a norm of the input |",
        "| ---: | ---: | ---: | :--- |",
    ]
    for scale in SCALES[1:]:
        exact = factors(results, w, "exact", scale) / factors(results, w, "exact", 1.0)
        rounded = factors(results, w, INPUT, scale) / factors(results, w, INPUT, 1.0)
        deep, first = np.abs(exact[:, 1:] - 1).max(), np.abs(exact[:, 0] / scale - 1).max()
        lines.append(
            f"| {scale:g} | {deep:.1e} | {first:.1e} | {rounded[:, 1:].min():.3f} to {rounded[:, 1:].max():.3f} |"
        )
    return "\n".join(lines)


def features(results, w, kind, scale):
    """What is left of the features when those at γ₀ = 1 are taken away, by seed."""
    return [run.metrics["direction"] for run in w.finished(results, f"γ₀ {scale:g}, {kind}").values()]


def with_fixed_delta(results, w):
    """How far the exponents with δ fixed are from those derived, at most over seeds, by length."""
    names = {"logits": ("logits", 1)} | {name: (f"fixed δ: {name}", derived) for name, derived in SLOPES.items()}
    return {
        label: (derived, max(abs(value - derived) for value in slope(results, w, "exact", name)))
        for label, (name, derived) in names.items()
    }


def under_cross_entropy(results, w):
    """By length: exponents by seed, mean and interval, and what was derived."""
    found = {name: np.array(slope(results, w, "exact", f"cross-entropy: {name}")) for name in SLOPES}
    return {name: (len(values), values.mean(), *w.t_interval(values), SLOPES[name]) for name, values in found.items()}


def exponents(found):
    """The table of these."""
    lines = [
        f"| length | n | exponent | 95 % CI | derived | within {NEAR} | in the interval |",
        "| :--- | ---: | ---: | ---: | ---: | :--- | :--- |",
    ]
    for name, (count, mean, low, high, derived) in found.items():
        near, inside = (YES_NO[test] for test in (abs(mean - derived) <= NEAR, low <= derived <= high))
        numbers = f"{mean:.3f} | {low:.3f} to {high:.3f} | {derived}".replace("-", "−")
        lines.append(f"| {name} | {count} | {numbers} | {near} | {inside} |")
    return "\n".join(lines)


def longer(results, w):
    """The relative step of γ at γ₀ = 0.1 over that at 1, under cross-entropy: against ×1 and against the derived."""
    steps = [math.log10(b / a) for a, b in zip(relative(results, w, 1.0), relative(results, w, 0.1), strict=True)]
    low, high = (10**value for value in w.t_interval(np.array(steps)))
    one, ten = (w.signflip_test(np.array(steps) - at, "two-sided").p for at in (0.0, 1.0))
    return (
        f"At γ₀ = 0.1 a step of γ, relative to γ, is ×{10 ** np.mean(steps):.3g} as long as at γ₀ = 1 (95 % CI "
        f"×{low:.3g} to ×{high:.3g}, n = {len(steps)}; cross-entropy, eps 1e-5). Against ×1, no change: p "
        f"{w.fmt.p_value(one)}. Against the derived ×10: p {w.fmt.p_value(ten)}, and the interval "
        f"{'holds' if low <= 10 <= high else 'does not hold'} it."
    )


def report(results, w):
    """The page."""
    fixed, learned = with_fixed_delta(results, w), under_cross_entropy(results, w)
    worst = max(off for _, off in fixed.values())
    near = sum(abs(mean - derived) <= NEAR for _, mean, _, _, derived in learned.values())
    inside = sum(low <= derived <= high for _, _, low, high, derived in learned.values())
    left = max(value for scale in SCALES[1:] for value in features(results, w, "exact", scale))
    parts = {scale: 100 * np.mean(features(results, w, "eps 1e-5", scale)) for scale in SCALES[1:]}
    by_eps = ", ".join(f"{part:.2g} % at γ₀ = {scale:g}" for scale, part in parts.items())
    return "\n\n".join(
        [
            "# A small initial scale cancels",
            "Claim: Davis and Frank, *Revisiting Batch Norm Initialization*, arXiv:2110.13989, Eqs. 12 to 16. The "
            "factor γ/σ that multiplies a gradient on its way back through a norm does not depend on γ₀ where the "
            "input comes from other norms: σ has the same γ₀ in it. So a small γ₀ changes neither what the norms "
            "after it compute nor that factor, but the size of what is computed between them.",
            "**Verdict**: reproduces as algebra, and in part with the loss that networks are trained with. Without eps "
            "the factor and the function behind the next norm are the same to rounding, for every γ₀ and seed, and "
            f"with the gradient at the logits fixed the lengths of gradients go with γ₀ as derived, to {worst:.0e}: "
            "identities, for which p means nothing. With cross-entropy, where that gradient depends on γ₀ itself, "
            f"{near} of {len(learned)} exponents are within {NEAR} of the derived ones, and the 95 % interval holds "
            f"the derived one in {inside} of {len(learned)}. {longer(results, w)}",
            w.header(results, "cancellation.py"),
            f"Setting: resnet8(width=16) at its initial values (He), 100 digits of 8×8, float64, {SEEDS} paired "
            "seeds: the same weights and batch at every γ₀. “eps = 0” is 1e-30. Nothing is trained.",
            "![cancellation](cancellation.svg)",
            "## What cancels",
            "γ/σ relative to γ₀ = 1: largest change over seeds and layers; with eps the smallest and largest ratio.",
            cancels(results, w),
            "- The first norm sees the images, so its factor is in proportion to γ₀; with a norm of the input, "
            "scaled like all others, it is not.\n- The features that enter the classifier are those of γ₀ = 1, times "
            f"γ₀: without eps the rest is at most {left:.1e} of their length.\n- eps = 1e-5 is not nothing: with it "
            f"the rest is {by_eps}.\n- Nothing normalizes what the last norms give: logits are in proportion to γ₀.",
            "## What changes",
            "The exponent of γ₀ in each length, γ₀ from 1 to 0.05, without eps. Eq. 13 gives: gradients of kernels "
            "have the size of their inputs, γ₀; those of γ and β do not; so a step of γ is 1/γ₀ times as long in "
            "units of γ, which is what the paper's divisor of its learning rate answers.",
            "With a loss whose gradient δ at the logits is fixed, as in the derivation; an identity is right or wrong, "
            "and not tested.",
            "\n".join(
                [
                    "| length | derived | largest deviation of the exponent, over seeds |",
                    "| :--- | ---: | ---: |",
                    *(
                        f"| {name} | {derived} | {off:.1e} |".replace("| -", "| −")
                        for name, (derived, off) in fixed.items()
                    ),
                ]
            ),
            "With cross-entropy, whose δ depends on the logits, and so on γ₀: from sure and wrong at γ₀ = 1 to even "
            "at small γ₀. What is nearest to the logits, the classifier and β, feels that most.",
            exponents(learned),
            "p: exact sign-flip test over seeds, two-sided; CI: t. Neither is adjusted.",
        ]
    )


def relative(results, w, scale):
    """The relative step of γ, by seed."""
    runs = w.finished(results, f"γ₀ {scale:g}, eps 1e-5")
    return [runs[seed].metrics["cross-entropy: step of γ, relative to γ"] for seed in sorted(runs)]


def draw(results, w):
    """Factors by layer, and lengths by γ₀."""
    fig, (left, right) = panels(
        ["γ/σ by norm, of that at γ₀ = 1 (eps 1e-5)", "length of gradients by γ₀ (eps 1e-5)"], height=3.0
    )
    for scale, colour in zip(SCALES[1:], canvas.ARMS, strict=False):
        ratio = factors(results, w, "eps 1e-5", scale) / factors(results, w, "eps 1e-5", 1.0)
        w.band(left, range(1, ratio.shape[1] + 1), ratio.tolist(), colour, f"γ₀ {scale:g}")
    left.set_xlabel("norm", fontsize=8.5)
    left.set_yscale("log")
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_formatter("")
    legend(left)
    for name, colour in zip(SLOPES, canvas.ARMS, strict=False):
        runs = [w.finished(results, f"γ₀ {scale:g}, eps 1e-5") for scale in SCALES]
        values = [[one[seed].metrics[f"cross-entropy: {name}"] for one in runs] for seed in sorted(runs[0])]
        w.band(right, SCALES, values, colour, name)
    right.set_xlabel("γ₀", fontsize=8.5)
    for axis in (right.xaxis, right.yaxis):
        getattr(right, f"set_{axis.axis_name}scale")("log")
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    legend(right, ncols=2)
    return fig


if __name__ == "__main__":
    main()
