"""Cases in which the original code raises: ours raises too, or does what was decided instead."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normlab.errors import SpecError
from normlab.layers.base import NORMS
from tests.golden import Case
from tests.golden.claim import Claim
from tests.golden.comparison import Check, Comparison

Layers = Mapping[str, Callable[[Case], Claim]]

SIZE = re.compile(r"Expected more than 1 .* got input size torch\.Size\(\[([\d, ]+)\]\)")
DIMENSIONS = re.compile(r"expected .*\bgot (\d)D input")
ATTENTIVE = ("MixtureBatchNorm2d", "AttnBatchNorm2d")
GROUPED = dict.fromkeys(("GroupNorm", "GN_self"), "group") | dict.fromkeys(("EvoNormSO", "EvoNorm2D"), "evo_s0")


def find(case: Case, layers: Layers) -> Check | None:
    """By class and message, since such a case has nothing else."""
    message = case.meta["message"]
    if size := SIZE.search(message):
        return partial(_one_value, [int(n) for n in size[1].split(",")], layers)
    if (dimensions := DIMENSIONS.search(message)) and case.cls in layers:
        return partial(_dimensions, int(dimensions[1]), layers)
    if case.cls == "MixtureGroupNorm":
        return _attention
    return partial(_groups, GROUPED[case.cls]) if case.cls in GROUPED else None


def _one_value(size: list[int], layers: Layers, compare: Comparison) -> None:
    """The same error, with the same size; inside an attention, after the layer's own input."""
    case = compare.case
    if case.cls in ATTENTIVE:
        layer: nn.Module = _new("attentive", 4, num_affine=size[1], mode=2)
        x = torch.zeros(size[0], 4, 2, 2, dtype=case.dtype)
    elif case.cls.startswith("InstanceNorm"):
        layer, x = _new("instance", size[1]), torch.zeros(size, dtype=case.dtype)
    else:
        layer, x = _built(case, layers, size)
    with pytest.raises(SpecError, match="Expected more than 1 value") as caught:
        layer(x)
    found = re.search(r"got input size torch\.Size\(\[([\d, ]+)\]\)", str(caught.value))
    ours = [int(n) for n in found[1].split(",")] if found else []
    compare.true("message", [n for n in ours if n > 1] == [n for n in size if n > 1], f"names the size {ours}")
    compare.true("exception", issubclass(SpecError, ValueError), "is not theirs")


def _dimensions(given: int, layers: Layers, compare: Comparison) -> None:
    """Inputs of 2 to 5 dimensions are all accepted; others are an error."""
    size = [3, 4, 5, 2, 3, 2, 2][:given]
    if not 2 <= given <= 5:
        layer, _ = _built(compare.case, layers, [3, 4, 5])
        with pytest.raises(SpecError, match="dimensions"):
            layer(torch.zeros(size, dtype=compare.case.dtype))
        return
    compare.note("dimensions")
    layer, x = _built(compare.case, layers, size)
    with torch.no_grad():
        compare.against("y", layer(x), layer(x.reshape(3, 4, -1, 1)).reshape(size))


def _built(case: Case, layers: Layers, size: list[int]) -> tuple[nn.Module, Tensor]:
    """The layer of this class for an input of this size, and such an input; the case itself has no arrays."""
    x = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=case.dtype)
    like = replace(case, arrays={"x": x.numpy()})
    return layers[case.cls](like).layer, x


def _new(norm: str, *args: int, **options: object) -> nn.Module:
    importlib.import_module(f"normlab.layers.{norm}")
    return NORMS[norm](*args, **options, dtype=torch.float64)


def _groups(norm: str, compare: Comparison) -> None:
    compare.note("groups")
    with pytest.raises(SpecError, match="num_groups=32 does not divide num_features=8"):
        _new(norm, 8, num_groups=32)


def _attention(compare: Comparison) -> None:
    """What the authors' assertion keeps from running, each mode against torch's functions."""
    compare.note("attention")
    x = torch.randn(4, 8, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for mode, end in ((2, F.hardsigmoid), (3, F.hardsigmoid), (5, torch.sigmoid), (6, partial(F.softmax, dim=1))):
        layer = _new("attentive", 8, num_affine=6, mode=mode, backbone="group", num_groups=4, attention_norm="group")
        state = layer.state_dict()
        a = x.mean((2, 3)) * torch.rsqrt(x.var((2, 3)) + 1e-3)
        for step in sorted({name.split(".")[1] for name in state if name.endswith(".weight")}):
            weight = state[f"attention.{step}.weight"]
            if weight.dim() == 2:
                a = F.linear(a.relu() if step != "0" else a, weight)
            else:
                a = F.group_norm(a, 1, weight, state[f"attention.{step}.bias"])
        scale, shift = (end(a) @ state[name] for name in ("weights", "biases"))
        y = scale[..., None, None] * F.group_norm(x, 4) + shift[..., None, None]
        with torch.no_grad():
            compare.against(f"y of mode {mode}", layer(x), y)
