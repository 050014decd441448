"""What is no layer: seeds, the t-test, optimizer groups, the schedule, initial values."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import normlab
from normlab.errors import SpecError
from normlab.layers.batch import BatchNorm
from normlab.recipes.groups import build_groups, roles_by_name_and_shape
from normlab.seeding import Streams, md5_seed, resolve_seed
from normlab.study.job import TrainSpec
from normlab.study.models import ResNet
from normlab.study.stats import paired_t
from normlab.study.training import set_lr
from tests.golden import Case
from tests.golden.comparison import Comparison


def seeds(compare: Comparison) -> None:
    labels = compare.case.arrays["simple"].tolist()
    compare.used("simple")
    compare.close("complex", [md5_seed(label) for label in labels])
    same = all(md5_seed(str(label)) == resolve_seed(label, "md5") == md5_seed(label) for label in labels)
    compare.true("complex", same, "is ambiguous")


def t_test(compare: Comparison) -> None:
    a = compare.case.arrays
    pairs = sorted(key[1:] for key in a if re.fullmatch(r"a\d+", key))
    for pair in pairs:
        compare.used(f"a{pair}", f"b{pair}", f"t{pair}", f"p{pair}")
        t, p = paired_t(a[f"a{pair}"] - a[f"b{pair}"])
        _same(compare, f"t{pair}", t)
        _same(compare, f"p{pair}", p)
    for name, shift in (("same_p", 0.0), ("const_shift_p", 1.0)):
        if name in a:
            compare.used("same_a", name)
            _same(compare, name, paired_t((a["same_a"] + shift) - a["same_a"]).p)


def _same(compare: Comparison, array: str, ours: float) -> None:
    """Close, or not finite in the same way."""
    theirs = float(compare.case.arrays[array])
    if math.isfinite(theirs):
        compare.against(array, ours, theirs)
    else:
        compare.true(array, np.array_equal(ours, theirs, equal_nan=True), f"is {ours} instead of {theirs}")


def groups(compare: Comparison) -> None:
    """The groups for each divisor c of the scale's learning rate that the case has."""
    for key, theirs in compare.case.meta.items():
        if (divisor := re.fullmatch(r"groups_c(\d+)", key)) is not None:
            _groups(compare, int(divisor[1]), [group for group in theirs if group["params"]])


def _groups(compare: Comparison, divisor: int, theirs: list[dict[str, Any]]) -> None:
    stored = compare.case.meta["all_parameters"]
    parameters = [(name, nn.Parameter(torch.zeros(shape), requires_grad=grad)) for name, shape, grad in stored]
    names = {id(p): name for name, p in parameters}
    lr = next((group["lr"] * divisor for group in theirs if group["lr"] is not None), 0.1)
    decay = max(group["weight_decay"] for group in theirs)
    roles = roles_by_name_and_shape(parameters)
    ours = build_groups(parameters, roles, lr=lr, weight_decay=decay, lr_divisor=max(divisor, 1))
    same = [[names[id(p)] for p in group["params"]] for group in ours] == [group["params"] for group in theirs]
    compare.true(f"groups_c{divisor}", same, "are made up of other parameters")
    decays = [[group["weight_decay"] for group in side] for side in (ours, theirs)]
    compare.against(f"weight_decay of groups_c{divisor}", *decays)
    expected = [lr if group["lr"] is None else group["lr"] for group in theirs]
    compare.against(f"lr of groups_c{divisor}", [group["lr"] for group in ours], expected)


def schedule(compare: Comparison) -> None:
    ctor = compare.case.meta["ctor"]
    spec = TrainSpec(epochs=ctor["T"], batch_size=1, lr=ctor["lr"], eta_min=ctor["eta_min"])
    weight, scale = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    start = [{"params": [weight]}, {"params": [scale], "lr": ctor["lr"] / ctor["c"]}]
    optimizer = torch.optim.SGD(start, lr=ctor["lr"])
    rates = []
    for epoch in range(spec.epochs):
        set_lr(optimizer, spec, epoch)
        rates.append([group["lr"] for group in optimizer.param_groups])
    for array, ours in zip(("lr", "lr_gamma"), zip(*rates, strict=True), strict=True):
        compare.close(array, ours)


def initial_values(compare: Comparison) -> None:
    """Each parameter of a prepared network against the statistics of the authors': both are samples."""
    rows = compare.case.meta["rows"]
    ours = dict(_prepared(compare.case, rows).named_parameters())
    compare.used("mean", "std")
    frozen = {row["name"] for row in rows if not row["requires_grad"]}  # 0, and not there in ours
    compare.true("rows", {row["name"] for row in rows} == {*ours, *frozen}, "name other parameters")
    for row in rows:
        if row["name"] in frozen:
            compare.true(row["name"], (row["min"], row["max"]) == (0, 0), "is frozen and not 0")
        else:
            _initial_value(compare, row, ours[row["name"]])


def _initial_value(compare: Comparison, row: dict[str, Any], p: nn.Parameter) -> None:
    compare.true(row["name"], list(p.shape) == row["shape"], f"has shape {list(p.shape)} instead of {row['shape']}")
    if row["theory"] == "constant":
        compare.true(row["name"], p.min() == p.max() == row["min"], f"is not {row['min']}")
        return
    # sd of a sample's deviation is 1 / sqrt(2n) at most, of its mean std / sqrt(n)
    off = abs(p.std().item() / row["std"] - 1) * math.sqrt(p.numel())
    compare.true(row["name"], off < 5, f"has a standard deviation {off:.1f} of its own away")
    off = abs(p.mean().item() - row["mean"]) / row["std"] * math.sqrt(p.numel() / 2)
    compare.true(row["name"], off < 5, f"has a mean {off:.1f} standard deviations away")
    if row["theory"].startswith("uniform"):
        compare.true(row["name"], p.abs().max() <= math.sqrt(6 / p.shape[1]), "exceeds sqrt(6 / fan_in)")


def _prepared(case: Case, rows: list[dict[str, Any]]) -> nn.Module:
    """A ResNet of basic blocks whose size is read off the names and shapes."""
    shapes = {row["name"]: row["shape"] for row in rows}
    blocks = {tuple(map(int, found)) for name in shapes for found in re.findall(r"layer(\d+)\.(\d+)\.", name)}
    depth = Counter(stage for stage, _ in blocks)
    prefix = next(name for name in shapes if name.endswith("fc.weight")).removesuffix("fc.weight")
    conv, fc = shapes[f"{prefix}conv1.weight"], shapes[f"{prefix}fc.weight"]
    net = ResNet(conv[1], fc[0], blocks=[depth[stage] for stage in sorted(depth)], width=conv[0])
    scale, with_input = case.told("bn_weight", 1.0), case.told("input_norm") == "bn"
    recipe = normlab.recipe(f"revisited(scale={scale}, input_norm={with_input})")
    return recipe.prepare(net, streams=Streams(1))


def scale(compare: Comparison) -> None:
    """A BatchNorm that was only built: with the initial values told, or an error where its scale is none."""
    case, told = compare.case, compare.case.told("bn_weight", 1.0)
    params, c = case.by_role("param"), case.told("num_features")
    compare.used(*case.arrays)
    if told > 0:
        layer = BatchNorm(c, scale=told, dtype=case.dtype)
        compare.against("gamma", layer.weight, params["gamma"])
        compare.against("beta", layer.bias, params["beta"])
        return
    compare.note("scale")
    compare.true("gamma", (params["gamma"] == 1).all(), "is not the 1 that the authors' code takes without a word")
    with pytest.raises(SpecError, match=r"scale=.* should be a number > 0"):
        BatchNorm(c, scale=told)


CHECKS = {
    "make_complex": seeds,
    "evaluate": t_test,
    "adjust_weight_decay_and_learning_rate": groups,
    "CosineAnnealingLR": schedule,
    "construct_network": initial_values,
}
"""By function in the original code."""
