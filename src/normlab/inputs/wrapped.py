"""Models inside what others put around them: for training, for speed, and averages over training."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from normlab.recipes.wrapped import bare

_AVERAGES = {
    "torch.optim.swa_utils.AveragedModel": "module",
    "timm.utils.model_ema.ModelEmaV2": "module",
    "timm.utils.model_ema.ModelEmaV3": "module",
    "ema_pytorch.ema_pytorch.EMA": "ema_model",
}


@dataclass(frozen=True)
class Averaged:
    """A model whose weights are averages over training.

    Args:
        by: the class that averages.
        statistics: what its running statistics are, in words.
    """

    by: str
    statistics: str


def inside(model: nn.Module) -> nn.Module:
    """The model inside DDP, DataParallel, torch.compile and averages; the names of its layers are relative to it."""
    model = bare(model)
    attribute = _attribute(model)
    return model if attribute is None else inside(getattr(model, attribute))


def averaged(model: nn.Module) -> Averaged | None:
    """Which average the model is, if any."""
    model = bare(model)
    if _attribute(model) is None:
        return None
    live = not getattr(model, "use_buffers", True) or getattr(model, "exclude_buffers", False)  # torch's, timm's
    text = "are those of the model that is trained, and fit other weights" if live else "are averages, which lag behind"
    return Averaged(type(model).__name__, text)


def _attribute(model: nn.Module) -> str | None:
    names = (f"{cls.__module__}.{cls.__qualname__}" for cls in type(model).__mro__)
    return next((_AVERAGES[name] for name in names if name in _AVERAGES), None)
