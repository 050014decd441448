"""Makes a model ready for torch.export and ONNX."""

from __future__ import annotations

import copy

from torch import nn

from normlab.surgery.fold import fold_all
from normlab.surgery.trial import Sample
from normlab.surgery.wrapped import unwrap


def prepare_export(model: nn.Module, *, sample: Sample | None = None) -> nn.Module:
    """A copy in eval mode, with all norms folded that can be, and nothing left that trains.

    Exporters bake in the mode that a model is in and drop what only training needs, momentum and counters; a graph in
    training mode normalizes by batches of one. The copy has no such choice left. Norms that depend on each example
    stay, and are exported as they are.

    Args:
        model: not changed; may be in training mode, and in DataParallel or torch.compile, which the copy is not.
        sample: what the outputs in eval mode are compared on; see `fold`.

    Returns:
        The copy, to be passed to torch.export.export or torch.onnx.export.

    Raises:
        SpecError: a model that cannot be folded as it is (DDP, FSDP); other outputs for the sample.
    """
    ready = copy.deepcopy(unwrap(model))
    for module in ready.modules():
        module.training = False
    ready = fold_all(ready, sample).model
    return ready.requires_grad_(False)
