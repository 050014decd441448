"""The norms of a model as data: to keep, to put back, and to merge, as federated averaging does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normlab.errors import SpecError, require
from normlab.surgery.conversion.carry import named_tensors
from normlab.surgery.sites import norm_sites
from normlab.surgery.statistics.borrow import require_shapes
from normlab.surgery.statistics.kept import Kept, effective, kept, pool, to_store


@dataclass(frozen=True, repr=False)
class NormState:
    """Copies of all that the normalization layers of a model hold, by the keys of its state dict.

    Args:
        parameters: weight, bias and whatever else a norm learns.
        statistics: buffers of floating point numbers. counters: of integers.
        layers: what each layer keeps, by its name, which says how it is merged.
    """

    parameters: Mapping[str, Tensor]
    statistics: Mapping[str, Tensor]
    counters: Mapping[str, Tensor]
    layers: Mapping[str, Kept]

    def __repr__(self) -> str:
        """How many there are; not what is in them."""
        kinds = ("parameters", "statistics", "counters")
        return f"NormState({', '.join(f'{len(getattr(self, kind))} {kind}' for kind in kinds)})"

    def merge(self, others: Sequence[NormState], weights: Sequence[float] | None = None) -> NormState:
        """One state from several of the same model: this one, then the others.

        Parameters are averaged, statistics pooled by the law of total variance, so that means that are far apart add
        to the variance, and counters, which an average would make a fraction, become the largest. What is no moment
        is averaged; of a variance without a mean the spread of the means is not known, and is left out.

        Args:
            weights: of this state and each other, such as numbers of examples; None: all alike. Not normalized.

        Raises:
            SpecError: states of different models; weights that are none; statistics that are not finite; buffers that
                differ and are no statistics, such as the selection that a Sparse Switchable Norm has made.
        """
        states = [self, *others]
        shares = _shares(weights, len(states))
        for state in others:
            require(state, NormState, "merge takes what norm_state gave for the other models")
            _same_keys(self, state)
        parameters = {key: _average([s.parameters[key] for s in states], shares) for key in self.parameters}
        counters = {key: torch.stack([s.counters[key] for s in states]).amax(0) for key in self.counters}
        merged: dict[str, Tensor] = {}
        for name, keeps in self.layers.items():
            merged |= _merged_layer(name, keeps, states, shares, counters)
        for key in self.statistics.keys() - merged.keys():
            values = [state.statistics[key] for state in states]
            if not all(torch.equal(value, values[0]) for value in values):
                raise SpecError(f"{key} differs, and is no statistic to be averaged: merge only where it agrees")
            merged[key] = values[0].clone()
        return NormState(parameters, {key: merged[key] for key in self.statistics}, counters, self.layers)

    @torch.no_grad()
    def load(self, model: nn.Module) -> None:
        """Write all values into the norms of a model, in place: as a snapshot, bit for bit.

        Raises:
            SpecError: norms of other names or shapes; nothing is written then.
        """
        _same_keys(self, norm_state(model))
        held = {
            **dict(model.named_parameters(remove_duplicate=False)),
            **dict(model.named_buffers(remove_duplicate=False)),
        }
        for key, value in {**self.parameters, **self.statistics, **self.counters}.items():
            held[key].copy_(value)


def norm_state(model: nn.Module) -> NormState:
    """Copies of parameters, statistics and counters of all normalization layers.

    A snapshot to go back to, when a batch of NaN has spoilt the running statistics, say: `state.load(model)`. And what
    clients of federated learning exchange: `merge`.

    Args:
        model: not changed. A wrapped one has the names of its wrapper.

    Raises:
        SpecError: no normalization layer.
    """
    require(model, nn.Module, "norm_state takes a torch module")
    require_shapes(model)
    sites = norm_sites(model)
    if not sites:
        raise SpecError("the model has no normalization layer; register_norm_type makes one known")
    found: dict[str, Tensor] = {}
    for site in sites:
        prefix = f"{site.name}." if site.name else ""
        found |= {f"{prefix}{name}": value for name, value in named_tensors(site.module).items()}
    parameters = {key: value for key, value in found.items() if isinstance(value, nn.Parameter)}
    buffers = {key: value for key, value in found.items() if key not in parameters}
    layers = {site.name: keeps for site in sites if (keeps := kept(site.module)) is not None}
    return NormState(
        _copies(parameters),
        _copies({key: value for key, value in buffers.items() if value.is_floating_point()}),
        _copies({key: value for key, value in buffers.items() if not value.is_floating_point()}),
        layers,
    )


def _copies(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in values.items()}


def _shares(weights: Sequence[float] | None, count: int) -> Tensor:
    given = torch.ones(count) if weights is None else torch.tensor([float(weight) for weight in weights])
    given = given.double()
    if len(given) != count or not bool((given >= 0).all() & given.isfinite().all() & (given.sum() > 0)):
        raise SpecError(f"weights={weights} should be {count} numbers, 0 or more and not all 0: one for each state")
    return given / given.sum()


def _same_keys(one: NormState, other: NormState) -> None:
    for kind in ("parameters", "statistics", "counters"):
        ours, theirs = getattr(one, kind), getattr(other, kind)
        different = sorted(ours.keys() ^ theirs.keys())
        different += [key for key in ours if key in theirs and ours[key].shape != theirs[key].shape]
        if different:
            raise SpecError(f"not the norms of the same model: {kind} differ in {different[0]!r}")


def _average(values: Sequence[Tensor], shares: Tensor) -> Tensor:
    wide = torch.stack([value.double() for value in values])
    center = wide[0]
    by = shares.to(wide.device).reshape(-1, *[1] * center.dim())
    return (center + (by * (wide - center)).sum(0)).to(values[0].dtype)


def _merged_layer(
    name: str, keeps: Kept, states: Sequence[NormState], shares: Tensor, counters: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The statistics of one layer, by their keys."""
    prefix = f"{name}." if name else ""
    key = None if keeps.counter is None else f"{prefix}{keeps.counter}"
    parts: list[dict[str, Tensor]] = []
    for state in states:
        stored = {statistic: state.statistics[f"{prefix}{statistic}"] for statistic in keeps.statistics}
        parts.append(effective(keeps, stored, None if key is None else state.counters[key]))
    pooled = pool(keeps, parts, shares)
    if not all(bool(value.isfinite().all()) for value in pooled.values()):
        raise SpecError(f"the statistics of {name or 'the model'} are not finite in one of the states: recalibrate it")
    values = to_store(keeps, pooled, None if key is None else counters[key])
    like = states[0].statistics
    merged = {f"{prefix}{name}": value.to(like[f"{prefix}{name}"].dtype) for name, value in values.items()}
    for learned in keeps.learned:
        merged[f"{prefix}{learned}"] = _average([state.statistics[f"{prefix}{learned}"] for state in states], shares)
    return merged
