"""Batch norms in channels_last on Apple's GPUs."""

from __future__ import annotations

from math import isinf

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.nn.modules.conv import _ConvNd  # pyright: ignore[reportPrivateUsage]

from normlab.doctor.base import Evidence, rule
from normlab.doctor.case import Case
from normlab.doctor.layers import count, names

NOTABLE = 0.01


@rule(
    "NL024",
    "mps-channels-last",
    kind="static",
    level="error",
    why="on MPS the backward pass of batch norm has taken this layout for another, in releases of torch until 2026: "
    "gradients are wrong without a word, and training diverges within a few steps, or it raises",
    fix="model.to(memory_format=torch.contiguous_format), and batches without channels_last",
    thread="pytorch/pytorch#175189",
)
def mps_channels_last(case: Case) -> Evidence | None:
    """Convolutions in that layout, which their outputs follow, and the error of a gradient on the device itself."""
    if case.device.type != "mps":
        return None
    last = [module for module in case.model.modules() if isinstance(module, _ConvNd) and _is_last(module)]
    found = [site for site in case.sites if isinstance(site.module, _BatchNorm)]
    if not (last and found):
        return None
    error = gradient_error(case.device)
    if error <= NOTABLE:
        return None
    text = f"channels-last weights in {count(len(last), 'convolution')} before {count(len(found), 'batch norm')}: on "
    said = "fail" if isinf(error) else f"are off by {100 * error:.3g} %"
    text += f"{case.device} with torch {torch.__version__} gradients {said} in this layout"
    return Evidence(text, names(found), {"convolutions": len(last), "error": error})


def gradient_error(device: torch.device) -> float:
    """Largest difference that the layout makes to the gradients of a batch norm, over the largest gradient."""
    values = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)).to(device)
    try:
        pairs = zip(*(_gradients(values.to(memory_format=layout)) for layout in _LAYOUTS), strict=True)
        return max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)
    except RuntimeError:  # which some releases raise
        return torch.inf


_LAYOUTS = torch.contiguous_format, torch.channels_last


def _gradients(values: Tensor) -> list[Tensor]:
    x, weight = values.clone().requires_grad_(), torch.ones(3, device=values.device, requires_grad=True)
    with torch.enable_grad():
        loss = (F.batch_norm(x, None, None, weight, training=True) * values.sin()).sum()
    return list(torch.autograd.grad(loss, (x, weight)))


def _is_last(module: nn.Module) -> bool:
    weight = module.weight
    if not isinstance(weight, torch.Tensor) or weight.dim() != 4:
        return False
    return weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
