"""Folds norms into the layers before them, for inference."""
# pyright: reportPrivateUsage=false
# torch's dicts of parts and hooks have no public names.

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from normlab.errors import SpecError
from normlab.functional.backends import stats_dtype
from normlab.layers import Layer
from normlab.surgery.conversion.adapt import finish, tail
from normlab.surgery.folding.at_inference import ChannelMap, at_inference
from normlab.surgery.folding.channel_affine import ChannelAffine, Rows
from normlab.surgery.folding.kernels import absorbed, can_absorb, has_hooks, is_kernel, plain_convolution
from normlab.surgery.folding.neighbours import feeding
from normlab.surgery.sites import Site, is_norm, norm_sites
from normlab.surgery.statistics.borrow import require_shapes
from normlab.surgery.trial import Sample, first_run, largest_difference, outputs
from normlab.surgery.wrapped import unwrap

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}
"""Of a whole model on a sample, relative to its largest output; half precision has 0.05."""


@dataclass(frozen=True, repr=False)
class FoldRecord:
    """What `fold` did.

    Args:
        model: in place, but for a model that is itself a norm or a convolution.
        folded: name of a norm → names of the layers that it is part of now; none: it became a `ChannelAffine`.
        plain: names of convolutions that have become nn.Conv2d, with the kernel that they computed at each call.
        left: name of a norm, or of a convolution with a computed kernel, that is as it was → the reason.
        difference: largest difference of outputs on the sample; None without one.
    """

    model: nn.Module
    folded: Mapping[str, tuple[str, ...]]
    plain: tuple[str, ...]
    left: Mapping[str, str]
    difference: float | None = None

    def table(self) -> str:
        """A line for each layer."""
        rows = [(name, f"in {', '.join(into)}" if into else "scale and shift") for name, into in self.folded.items()]
        rows += [(name, "plain convolution") for name in self.plain]
        rows += [(name, f"left: {reason}") for name, reason in self.left.items()]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name or '(the model)':{width}}  {what}" for name, what in rows)

    def __repr__(self) -> str:
        return self.table()


def fold(model: nn.Module, *, sample: Sample | None = None) -> FoldRecord:
    """Make norms part of the convolutions and linear layers before them, in place, for inference.

        W' = s W,   b' = s b + t        for a norm that is s·x + t per channel in eval mode

    So are batch norms of torch, timm (which keep their activation) and torchvision, frozen ones too, instance norms
    with running statistics, and of normlab's: batch in all formulations, batch_renorm, ghost, instance, iebn_minus,
    rbn_minus, lp, mean_only, noisy, variance, bnet with k = 1, sparse_switch once it has selected batch norm, and
    whitening, whose s is a matrix. Where there is no layer before, or other layers use its output too, the norm becomes
    a `ChannelAffine`. Convolutions that compute their kernel, as weight_standardized does and timm's, become plain.

    What comes before what is read off the model's graph by torch.fx, or off the graphs of those of its parts that it
    can trace, such as nn.Sequential. It assumes there that parts are called as a whole; give a sample where in doubt.

    Args:
        model: in eval mode.
        sample: a tensor, or a tuple or dict of arguments: outputs are compared, and if they differ, all is undone.

    Returns:
        The record, which also says why layers were left as they are.

    Raises:
        SpecError: a model in training mode, without anything to fold, or wrapped (DDP, FSDP); a sample that it does
            not take; other outputs.

    Source: Jacob et al., arXiv:1712.05877, sec. 3.2.
    """
    model = unwrap(model)
    record = fold_all(model, sample)
    if not (record.folded or record.plain):
        reasons = "; ".join(f"{name or 'the model'}: {reason}" for name, reason in record.left.items())
        raise SpecError(f"there is nothing to fold. {reasons or 'The model has no normalization layer'}")
    return record


def fold_all(model: nn.Module, sample: Sample | None = None) -> FoldRecord:
    """`fold`, also where that is nothing at all."""
    require_shapes(model)
    _require_eval(model)
    before = None if sample is None else _first_outputs(model, sample)
    with ExitStack() as undo:
        folding = _Folding(model, undo)
        folding.do()
        difference = None
        if sample is not None and before is not None:
            after = outputs(folding.model, sample, training=False)
            difference = largest_difference(before, after)
            _check_same(before, difference)
        undo.pop_all()
    return FoldRecord(folding.model, folding.folded, tuple(folding.plain), folding.left, difference)


def _first_outputs(model: nn.Module, sample: Sample) -> list[Tensor]:
    with first_run():
        return outputs(model, sample, training=False)


def _require_eval(model: nn.Module) -> None:
    modules = {"the model": model} | {site.name: site.module for site in norm_sites(model)}
    training = [name for name, module in modules.items() if module.training]
    if training:
        raise SpecError(
            f"{training[0]} is in training mode, where a norm is no fixed map: call model.eval() first; fold for "
            "inference only"
        )


def _check_same(before: list[Tensor], difference: float | None) -> None:
    largest = max((float(value.abs().max()) for value in before), default=0.0)
    allowed = TOLERANCE.get(before[0].dtype, 5e-2) * max(largest, 1e-30) if before else 0.0
    if difference is None or not difference <= allowed:
        found = "another number of them" if difference is None else f"off by {difference:.1e}"
        raise SpecError(
            f"the folded model gives other outputs for the sample, {found}, where {allowed:.1e} is allowed: "
            "layers of it are called apart from the order they stand in. Nothing was changed"
        )


@dataclass
class _Folding:
    """One run of `fold`: what was done so far, and how to undo it."""

    model: nn.Module
    undo: ExitStack
    folded: dict[str, tuple[str, ...]] = field(default_factory=dict)
    plain: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)

    def do(self) -> None:
        """Fold all that can be."""
        names = {module: name for name, module in self.model.named_modules()}
        sites = norm_sites(self.model)
        feeds = feeding(self.model, is_kernel, is_norm)
        now = {module: self._made_plain(name, module) for module, name in names.items()}
        for site in sites:
            found = _foldable(site.module)
            if isinstance(found, str):
                self.left[site.name] = found
                continue
            before = feeds.get(site.module, [])
            if not all(can_absorb(now[layer], found) for layer in before):
                before = []
            for layer in before:
                self._absorb(now[layer], found)
            self._put(site.module, _stand_in(site, found, before))
            self.folded[site.name] = tuple(names[layer] for layer in before)

    def _made_plain(self, name: str, module: nn.Module) -> nn.Module:
        """The plain convolution instead of one that computes its kernel; other modules as they are."""
        new = plain_convolution(module)
        if isinstance(new, str):
            self.left[name] = new
        elif new is not None:
            self._put(module, new)
            self.plain.append(name)
            return new
        return module

    def _absorb(self, layer: nn.Module, found: ChannelMap) -> None:
        slots = layer._parameters
        self.undo.callback(slots.update, dict(slots))
        slots.update(absorbed(layer, found))

    def _put(self, old: nn.Module, new: nn.Module) -> None:
        """Under all names that the old one has."""
        if old is self.model:
            self.model = new
            return
        for parent in list(self.model.modules()):
            for name, child in parent._modules.items():
                if child is old:
                    self.undo.callback(parent._modules.__setitem__, name, old)
                    parent._modules[name] = new


def _foldable(module: nn.Module) -> ChannelMap | str:
    """What a norm is at inference, or why it has to stay."""
    found = at_inference(module)
    if isinstance(found, str):
        return found
    if hasattr(module, "_features"):
        return "its features are in another dimension than its input's"
    return "it has hooks, which would see other values" if has_hooks(module, finish) else found


def _stand_in(site: Site, found: ChannelMap, layers: list[nn.Module]) -> nn.Module:
    """What takes the place of the norm: what it does besides, and the map itself if no layers take it up."""
    module, after = site.module, tail(site.module)
    activation = module.activation if isinstance(module, Layer) else None
    parts = OrderedDict[str, nn.Module]()
    if not layers:
        like = next(tensor for tensor in (*module.buffers(), *module.parameters()) if tensor.is_floating_point())
        like = like.new_empty(0, dtype=stats_dtype(like.dtype))
        parts["affine"] = ChannelAffine(found.scale.to(like), found.shift.to(like), activation=activation)
    elif any(isinstance(layer, nn.Linear) for layer in layers):
        parts["rows"] = Rows()
    if layers and activation == "relu":
        parts["relu"] = nn.ReLU()
    if not after and len(parts) <= 1:
        return next(iter(parts.values()), nn.Identity()).eval()
    stand_in = nn.Sequential(OrderedDict({**parts, **after}))
    stand_in.training = False
    return stand_in
