"""What takes the place of one layer, and what a user should know of it; nothing is changed yet."""

from __future__ import annotations

from torch import nn
from torch.nn.parameter import is_lazy

from normlab.errors import NormlabError, SpecError
from normlab.surgery.conversion.adapt import adapt
from normlab.surgery.conversion.carry import Handover, hand_over, named_tensors, width
from normlab.surgery.conversion.convolutions import check_convolution, hand_over_kernel, make_convolution
from normlab.surgery.conversion.exact import same_at_eval
from normlab.surgery.conversion.operation import Swap
from normlab.surgery.conversion.remarks import remarks
from normlab.surgery.conversion.table import Change
from normlab.surgery.conversion.targets import Target, make_norm, one_line, reference
from normlab.surgery.sites import Site, affine_params, norm_type, overrides_forward


def plan(site: Site, names: tuple[str, ...], target: Target, model: nn.Module, taken: set[int]) -> tuple[Swap, Change]:
    """The new layer for one site, with what it keeps of the old one.

    Args:
        names: all that the layer has in the model.
        taken: ids of modules that are in use; gets those of the new layer.

    Raises:
        SpecError: the layer cannot be converted; its name, and the reason.
    """
    old = site.module
    try:
        if target.convolution:
            new = make_convolution(target, check_convolution(old, target))
        else:
            new = _new_norm(old, target, model)
        _check_new(old, new, taken)
    except NormlabError as error:
        raise SpecError(f"{site.name or 'the model'}, {type(old).__name__}: {error}") from error
    taken.update(map(id, new.modules()))
    change, handover = _filled(names, old, new.train(old.training), target)
    return Swap(names, old, new, handover), change


def _new_norm(old: nn.Module, target: Target, model: nn.Module) -> nn.Module:
    known = norm_type(old)
    assert known is not None
    if overrides_forward(old):
        raise SpecError(
            "its class has a forward of its own, which may do more than normalize. register_norm_type says that it "
            "does not; `where` leaves it out"
        )
    affine_params(old)  # refuses what is computed
    if any(map(is_lazy, named_tensors(old).values())):
        raise SpecError("it has no shape yet: pass a sample, or run one forward pass through the model first")
    if "train" in vars(old) or "_trained_before_freeze" in vars(old):
        raise SpecError("it is frozen: unfreeze(model) first, and freeze the new layer")
    return make_norm(target, old, known, reference(old, model))


def _check_new(old: nn.Module, new: nn.Module, taken: set[int]) -> None:
    if any(id(module) in taken for module in new.modules()):
        raise SpecError(f"{type(new).__name__} is in the model already: every call should make a new layer")
    for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
        if getattr(old, kind) and getattr(new, kind):
            raise SpecError(f"it has {kind.strip('_').replace('_', ' ')}, and so has the new {type(new).__name__}")


def _filled(names: tuple[str, ...], old: nn.Module, new: nn.Module, target: Target) -> tuple[Change, Handover]:
    """Give `new` what it keeps of `old`, and say what that is."""
    known = norm_type(old)
    if target.convolution or known is None:
        assert isinstance(old, nn.Conv2d)
        handover, after, size = hand_over_kernel(old, new), (), old.out_channels
        said = handover.remarks
    else:
        handover, size = hand_over(old, new, known, frozenset(target.named)), width(old)
        after = adapt(old, new, activation="activation" not in target.named)
        said = remarks(old, new, known, handover, after)
    exact, how = same_at_eval(old, new, size)
    alike = type(old).__name__ == type(new).__name__
    change = Change(
        names=names,
        num_features=size,
        before=one_line(old, library=alike),
        after=one_line(new, library=alike),
        kept=(*handover.kept, *after),
        dropped=handover.dropped,
        added=handover.added,
        exact_at_eval=exact,
        note="; ".join(filter(None, [how, *said])),
    )
    return change, handover
