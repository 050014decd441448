"""Wrong gradients of norms in channels-last layout on Apple's GPUs."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd  # pyright: ignore[reportPrivateUsage]

from normlab.doctor.base import Evidence, rule
from normlab.doctor.case import Case
from normlab.doctor.layers import count, names


@rule(
    "NL024",
    "mps-channels-last",
    kind="static",
    level="error",
    why="the gradients of native norms in this layout have been wrong on MPS in several releases of torch, silently",
    fix="model.to(memory_format=torch.contiguous_format), and batches without channels_last",
    thread="pytorch/pytorch#175189",
)
def mps_channels_last(case: Case) -> Evidence | None:
    """The device, and convolutions whose weights have the layout, which their outputs follow."""
    if case.device.type != "mps":
        return None
    last = [module for module in case.model.modules() if isinstance(module, _ConvNd) and _is_last(module)]
    found = [site for site in case.sites if site.kind in ("batch", "instance", "group")]
    if not (last and found):
        return None
    text = f"channels-last weights in {count(len(last), 'convolution')} on {case.device}, torch {torch.__version__}, "
    text += f"and so the inputs of {count(len(found), 'norm')}"
    return Evidence(text, names(found), {"convolutions": len(last)})


def _is_last(module: nn.Module) -> bool:
    weight = module.weight
    if not isinstance(weight, torch.Tensor) or weight.dim() != 4:
        return False
    return weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
