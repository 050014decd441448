"""Groups of one or two values, of which normalization leaves nothing."""

from __future__ import annotations

from torch import nn

from normlab.doctor.base import Evidence, rule
from normlab.doctor.case import Case
from normlab.doctor.layers import called, count, names
from normlab.doctor.passes import Call
from normlab.layers import GroupNorm, InstanceNorm, LayerNorm

MOST = 2
_OF_TORCH: dict[type[nn.Module], int] = {nn.InstanceNorm1d: 1, nn.InstanceNorm2d: 2, nn.InstanceNorm3d: 3}


@rule(
    "NL005",
    "degenerate-groups",
    kind="one-batch",
    level="error",
    why="a group of one value becomes β whatever it was, one of two becomes ±γ: the data is erased without a word, "
    "typically where BatchNorm was replaced by GroupNorm on vectors or 1×1 maps",
    fix='normlab.convert(model, "layer", where=[...]) for these layers, or fewer groups',
    thread="pytorch/vision#2391",
    needs=("batch",),
)
def degenerate_groups(case: Case) -> Evidence | None:
    """Values per group of what reaches the layers, also of one that raises."""
    tried = case.trial()
    few = [(call, size) for call in tried.calls if (size := _group_size(call)) is not None and size <= MOST]
    if not few:
        return None
    least, size = min(few, key=lambda pair: pair[1])
    outcome = "raises" if least is tried.at else f"gives {least.largest:.2g} at most"
    shown = f"{called(least.site)} on {list(least.shape)} {outcome}"
    sites = [call.site for call, _ in few]
    values = "one value" if size == 1 else f"{size} values"
    text = f"groups of {values} in {count(len(names(sites)))}; {shown}"
    return Evidence(text, names(sites), {"values": size, "largest": least.largest})


def _group_size(call: Call) -> int | None:
    """How many values share their moments; None for moments that are not of each example alone."""
    module, shape = call.site.module, call.shape
    if len(shape) < 2:
        return None
    whole = call.positions * shape[1]
    if isinstance(module, (InstanceNorm, *_OF_TORCH)):
        alone = len(shape) == _OF_TORCH.get(type(module), 0) + 1  # [C, *S], without a batch
        return call.positions * shape[1] if alone else call.positions
    if isinstance(module, (GroupNorm, nn.GroupNorm)):
        return whole // module.num_groups
    if isinstance(module, LayerNorm):
        return whole
    if isinstance(module, nn.LayerNorm) and call.site.kind == "layer":
        size = 1
        for length in module.normalized_shape:
            size *= length
        return size
    return None
