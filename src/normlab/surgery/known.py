"""Normalization layers of other libraries, by the qualified names of their classes: nothing is imported for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["batch", "instance", "group", "layer", "rms", "other"]
Features = Literal["first", "last"]


@dataclass(frozen=True)
class NormType:
    """What a type of module is.

    Args:
        kind: which moments it uses; "other" for what is none of the five.
        weight: the attribute that holds γ, bias: the one that holds β; a layer need not have them.
        features: the dimension of the input that γ and β belong to: the "first" after the batch, or the "last".
        frozen: weight, bias and statistics are buffers, which nothing moves.
        tail: children that it applies to what it has normalized, in this order; a layer need not have them.
        fused: an activation is part of the formula, and goes when the layer goes.
        eps: the attribute that holds the number added under the root.
    """

    kind: Kind
    weight: str = "weight"
    bias: str = "bias"
    features: Features = "first"
    frozen: bool = False
    tail: tuple[str, ...] = ()
    fused: bool = False
    eps: str = "eps"


_TAIL = ("drop", "act")
_TIMM = {
    "norm.GroupNorm": NormType("group"),
    "norm.GroupNorm1": NormType("group"),
    "norm.LayerNorm": NormType("layer", features="last"),
    "norm.LayerNormFp32": NormType("layer", features="last"),
    "norm.LayerNorm2d": NormType("layer"),
    "norm.LayerNorm2dFp32": NormType("layer"),
    "norm.LayerNormExp2d": NormType("layer"),
    "norm.RmsNorm": NormType("rms", features="last"),
    "norm.RmsNormFp32": NormType("rms", features="last"),
    "norm.RmsNorm2d": NormType("rms"),
    "norm.RmsNorm2dFp32": NormType("rms"),
    "norm.SimpleNorm": NormType("other", features="last"),
    "norm.SimpleNormFp32": NormType("other", features="last"),
    "norm.SimpleNorm2d": NormType("other"),
    "norm.SimpleNorm2dFp32": NormType("other"),
    "norm_act.BatchNormAct2d": NormType("batch", tail=_TAIL),
    "norm_act.SyncBatchNormAct": NormType("batch", tail=_TAIL),
    "norm_act.FrozenBatchNormAct2d": NormType("batch", tail=_TAIL, frozen=True),
    "norm_act.GroupNormAct": NormType("group", tail=_TAIL),
    "norm_act.GroupNorm1Act": NormType("group", tail=_TAIL),
    "norm_act.LayerNormAct": NormType("layer", tail=_TAIL, features="last"),
    "norm_act.LayerNormActFp32": NormType("layer", tail=_TAIL, features="last"),
    "norm_act.LayerNormAct2d": NormType("layer", tail=_TAIL),
    "norm_act.LayerNormAct2dFp32": NormType("layer", tail=_TAIL),
    "norm_act.RmsNormAct": NormType("rms", tail=_TAIL, features="last"),
    "norm_act.RmsNormActFp32": NormType("rms", tail=_TAIL, features="last"),
    "norm_act.RmsNormAct2d": NormType("rms", tail=_TAIL),
    "norm_act.RmsNormAct2dFp32": NormType("rms", tail=_TAIL),
    "filter_response_norm.FilterResponseNormAct2d": NormType("other", tail=("act",)),
    "filter_response_norm.FilterResponseNormTlu2d": NormType("other", fused=True),
    "inplace_abn.InplaceAbn": NormType("batch"),
    **{f"evo_norm.EvoNorm2dB{i}": NormType("batch", fused=True) for i in (0, 1, 2)},
    **{f"evo_norm.EvoNorm2dS{i}": NormType("other", fused=True) for i in ("0", "0a", "1", "1a", "2", "2a")},
}
_FOREIGN = {
    **{f"timm.layers.{name}": known for name, known in _TIMM.items()},
    "torchvision.ops.misc.FrozenBatchNorm2d": NormType("batch", frozen=True),
    "torchvision.models.convnext.LayerNorm2d": NormType("layer"),
    "detectron2.layers.batch_norm.FrozenBatchNorm2d": NormType("batch", frozen=True),
    "maskrcnn_benchmark.layers.batch_norm.FrozenBatchNorm2d": NormType("batch", frozen=True),
}


def foreign(cls: type) -> NormType | None:
    """What is known of a class of timm, torchvision, transformers or detectron2; None for others."""
    if cls.__module__.startswith("transformers.models."):
        return _of_transformers(cls)
    return _FOREIGN.get(f"{cls.__module__}.{cls.__qualname__}")


def _of_transformers(cls: type) -> NormType | None:
    """Of its many copies of RMSNorm, those of Llama's kind: others multiply by 1 + weight, or by a gate."""
    if cls.__name__.endswith("FrozenBatchNorm2d"):
        return NormType("batch", frozen=True)
    code = getattr(cls.__init__, "__code__", None)
    if code is None or not cls.__name__.endswith(("RMSNorm", "T5LayerNorm")):
        return None
    return NormType("rms", features="last", eps="variance_epsilon") if "variance_epsilon" in code.co_names else None
