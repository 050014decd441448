"""Claim: with batch normalization a network relies less on single channels (Morcos et al., arXiv:1803.06959, sec. 3.3).

    python studies/claims/channels.py

Trains a plain convolutional network on 300 digits until it knows them, with BatchNorm, without any norm, and with norms
that are fixed after their first batch, then clamps channels of each layer to 0. Cost: 30 runs of 8 s on one core.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

import normlab
from normlab.landscape.figures import legend, panels
from normlab.landscape.fixed import Fixed
from normlab.page import canvas
from normlab.probes import ablation_curve, channel_reliance
from normlab.recipes.fan_in import init_fan_in
from normlab.study.data import load
from normlab.study.job import DataSpec

SEEDS, EPOCHS, BATCH, LR, ORDERS, POINTS = 10, 60, 50, 0.1, 6, 9
NORMS = {"BatchNorm": "batch", "no norm": "none", "fixed norm": "fixed"}
WIDTHS = ((1, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1))


class Block(nn.Module):
    """Convolution, norm, ReLU."""

    def __init__(self, inside: int, outside: int, stride: int, norm: str) -> None:
        super().__init__()
        kinds = {"batch": nn.BatchNorm2d, "fixed": Fixed, "none": lambda _: nn.Identity()}
        self.conv = nn.Conv2d(inside, outside, 3, stride, padding=1)
        self.norm = kinds[norm](outside)
        self.relu = nn.ReLU()

    def forward(self, x):
        """[N, inside, H, W] → [N, outside, H / stride, W / stride]."""
        return self.relu(self.norm(self.conv(x)))


def network(norm, streams):
    """Four blocks, the mean over the image, and a classifier; He's initial values, the same in all arms of a seed."""
    blocks = [Block(*width, norm) for width in WIDTHS]
    model = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    init_fan_in(nn.Sequential(*(block.conv for block in blocks), model[-1]), streams)
    return model


def train(arm, streams, context):
    """One run: SGD with momentum, half cosine; then ablation on the training examples, as in the paper."""
    data = load(DataSpec(name="digits(train=300)"))
    images, labels = torch.from_numpy(data.train.images).float() / 16, torch.from_numpy(data.train.labels)
    model = network(arm, streams)
    order = torch.from_numpy(streams.numpy("shuffle", 0).permutation(len(labels)))
    if arm == "fixed":
        with torch.no_grad():
            model(images[order[:BATCH]])
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
    for epoch in range(EPOCHS):  # two seconds: an interrupted run begins anew
        optimizer.param_groups[0]["lr"] = LR * (1 + math.cos(math.pi * epoch / EPOCHS)) / 2
        order = torch.from_numpy(streams.numpy("shuffle", epoch).permutation(len(labels)))
        for part in order.split(BATCH):
            loss = nn.functional.cross_entropy(model(images[part]), labels[part])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # without it networks without norms diverge at this rate
            optimizer.step()
        context.progress(0.2 * (epoch + 1) / EPOCHS)
    if not math.isfinite(float(loss.detach())):
        raise normlab.Diverged(f"loss is {float(loss.detach())} at the end")
    test = torch.from_numpy(data.test.images).float() / 16, torch.from_numpy(data.test.labels)
    found = [ablated(model, k, images, labels, streams.seed, context) for k in range(len(WIDTHS))]
    return {
        "area": float(np.mean([row["area"] for row in found])),
        "area_mean": float(np.mean([row["area_mean"] for row in found])),
        "drop": float(np.mean([row["drop"] for row in found])),
        "drop_max": float(np.mean([row["drop_max"] for row in found])),
        "train_accuracy": accuracy(model, images, labels),
        "test_accuracy": accuracy(model, *test),
    }


@torch.no_grad()
def accuracy(model, images, labels):
    """In %, in eval mode."""
    model.eval()
    return 100 * float((model(images).argmax(1) == labels).double().mean())


def ablated(model, k, images, labels, seed, context):
    """What layer k loses: area under the curve and drop by single channel, as shares of the intact accuracy."""

    def right():
        return accuracy(model, images, labels)

    curve = ablation_curve(model, right, f"{k}.norm", orders=ORDERS, points=POINTS, seed=seed)
    by_mean = ablation_curve(model, right, f"{k}.norm", orders=ORDERS // 2, points=POINTS, fill="mean", seed=seed)
    single = channel_reliance(model, right, f"{k}.norm")
    intact = single.accuracy
    shape = curve.accuracy.mean(0).tolist()
    row = {"area": curve.area / intact, "area_mean": by_mean.area / intact}
    row |= {"drop": single.mean / intact, "drop_max": single.max / intact}
    context.log(layer=k + 1, **row, **{f"at{i}": value / intact for i, value in enumerate(shape)})
    context.progress(0.2 + 0.2 * (k + 1))
    return row


def main() -> None:
    """Run what is missing, then write results/claims/channels."""
    import writing as w

    study = normlab.Study(arms=NORMS, seeds=SEEDS, train=train, metric="area", name="claim_channels")
    results = study.run(workers=1)
    w.write(
        "channels",
        report(results, w),
        raw(results, w),
        {
            "ablation": w.svg(
                lambda: draw(results, w), "channels", "Accuracy when more and more channels are clamped to 0"
            )
        },
    )


def raw(results, w):
    """A line for each arm, seed and layer."""
    for arm in results.arms:
        for seed, result in sorted(w.finished(results, arm).items()):
            for k in range(len(WIDTHS)):
                yield (
                    {"arm": arm, "seed": seed}
                    | {name: values[k] for name, values in result.curves.items()}
                    | {name: result.metrics[name] for name in ("train_accuracy", "test_accuracy")}
                )


def rows(results, w, other):
    """Is the area larger with BatchNorm, and what a channel costs smaller?"""
    a, b = w.finished(results, "BatchNorm"), w.finished(results, other)
    seeds = sorted(a.keys() & b.keys())

    def gain(name, sign):
        return [100 * sign * (a[s].metrics[name] - b[s].metrics[name]) for s in seeds]

    found = [
        w.Row("area under the curve, clamped to 0", gain("area", 1), " points"),
        w.Row("area under the curve, clamped to the mean", gain("area_mean", 1), " points"),
        w.Row("less lost by one channel, mean", gain("drop", -1), " points"),
        w.Row("less lost by one channel, largest", gain("drop_max", -1), " points"),
    ]
    for k in range(len(WIDTHS)):
        values = [100 * (a[s].curves["area"][k] - b[s].curves["area"][k]) for s in seeds]
        found.append(w.Row(f"area, layer {k + 1} alone", values, " points"))
    return found


def facts(results, w, arm):
    """One arm in numbers, means over seeds."""
    runs = [*w.finished(results, arm).values()]
    mean = {name: float(np.mean([run.metrics[name] for run in runs])) for name in runs[0].metrics}
    return (
        f"- {arm}: {mean['train_accuracy']:.1f} % of the training and {mean['test_accuracy']:.1f} % of the test "
        f"examples right; area {100 * mean['area']:.1f} %, one channel costs {100 * mean['drop']:.2f} % on the mean "
        f"and {100 * mean['drop_max']:.1f} % at most (n = {len(runs)})."
    )


def report(results, w):
    """The page."""
    plain, fixed = (rows(results, w, other) for other in ("no norm", "fixed norm"))
    return "\n\n".join(
        [
            "# With BatchNorm a network relies less on single channels",
            "Claim: Morcos et al., *On the importance of single directions for generalization*, arXiv:1803.06959. "
            "Networks with batch normalization lose less when channels are clamped.",
            f"**Verdict**: {w.headline(plain, fixed)}. The claim's own measure, the area over all layers with channels "
            f"clamped to 0: {w.verdicts(plain)[0]} against the network without norms, {w.verdicts(fixed)[0]} against "
            f"fixed norms. Of all rows below: {w.tally(plain)} against the network without norms; {w.tally(fixed)} "
            f"against fixed norms. {w.holds(plain, fixed)} A likely reason, not tested here: what comes after a "
            "clamped channel goes on subtracting and dividing by the statistics of before, and the first layers have "
            "most layers after them.",
            w.header(results, "channels.py"),
            f"Setting: four 3×3 convolutions with ReLU on 300 digits of 8×8, {EPOCHS} epochs of batches of {BATCH}, "
            f"SGD (learning rate {LR}, momentum 0.9, half cosine, gradients clipped to length 1), {SEEDS} paired "
            "seeds: the same initial values (He) and batches. Channels are clamped behind the ReLU, on the training "
            f"examples, in eval mode; {ORDERS} random orders, the same in all arms of a seed. Areas and losses are "
            f"shares of the intact accuracy. {w.diverged(results)}",
            "![ablation](ablation.svg)",
            "\n".join(facts(results, w, arm) for arm in NORMS),
            "Above 0: as the claim says.",
            "## Against the same network without norms",
            w.table(plain),
            "## Against norms that are fixed after the first batch",
            "Both begin as the same function; what differs is that BatchNorm goes on following the batch.",
            w.table(fixed),
            "p: exact sign-flip test over seeds, two-sided, Holm within a table; CI: paired t, not adjusted.",
        ]
    )


def draw(results, w):
    """Median and range over seeds, layer by layer."""
    fig, axes = panels([f"layer {k + 1}, {width[1]} channels" for k, width in enumerate(WIDTHS)])
    shares = [100 * i / (POINTS - 1) for i in range(POINTS)]
    for arm, colour in zip(NORMS, canvas.ARMS, strict=False):
        runs = [*w.finished(results, arm).values()]
        for k, ax in enumerate(axes):
            w.band(ax, shares, [[100 * run.curves[f"at{i}"][k] for i in range(POINTS)] for run in runs], colour, arm)
    for ax in axes:
        ax.set_xlabel("channels clamped to 0, %", fontsize=8.5)
        ax.set_ylim(0, 103)
    axes[0].set_ylabel("accuracy, % of the intact one's", fontsize=8.5)
    legend(axes[0])
    return fig


if __name__ == "__main__":
    main()
