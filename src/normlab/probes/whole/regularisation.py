"""How strongly the noise of batch statistics regularizes: Luo's γ decay."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normlab.errors import SpecError, came, require
from normlab.probes.base import Target, wide
from normlab.probes.standard import standard, why_not
from normlab.probes.whole.surface import Loss, surface
from normlab.surgery import norm_sites, norm_type


@dataclass(frozen=True)
class Strength:
    """ζ of one unit, of which ζ γ² is what batch statistics add to the loss.

    Args:
        from_sigma: the part of σ_B's noise, (ρ + 2) I / (8 M). from_mean: that of μ_B's, mean sigmoid(h̄) / (2 M).
        sigma_variance: of σ_B around σ_P, (ρ + 2) / (4 M). mean_variance: of μ_B around μ_P, in units of σ_P², 1 / M.
    """

    from_sigma: Tensor
    from_mean: Tensor
    sigma_variance: Tensor
    mean_variance: Tensor

    @property
    def zeta(self) -> Tensor:
        """ζ."""
        return self.from_sigma + self.from_mean


def regularisation_strength(
    preactivation: Tensor, *, batch_size: int, excess_kurtosis: Tensor | float, fisher: Tensor | float
) -> Strength:
    """The strength of one unit, batch normalization before a ReLU under a negative log-likelihood.

        E loss ≈ loss under population moments + ζ γ²,   ζ = (ρ + 2) I(γ) / (8 M) + mean_j sigmoid(h̄_j) / (2 M)

    Args:
        preactivation: h̄, normalized by population moments, after γ and β: [n], or [n, C] for C units.
        batch_size: M. excess_kurtosis: ρ of what is normalized. fisher: I(γ). [] or [C] each.

    Raises:
        SpecError: no values, or numbers that are none or do not fit them; a fisher below 0.

    Source: Luo et al., ICLR 2019 (arXiv:1809.00846), as remembered: its text could not be compared.
    """
    if not isinstance(batch_size, int) or batch_size < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise SpecError(f"batch_size={came(batch_size)} should be a number of examples, 1 or more")
    require(preactivation, Tensor, "preactivation is a tensor, [n] or [n, C]")
    if preactivation.dim() not in (1, 2) or not preactivation.numel():
        raise SpecError(f"preactivation should be values, [n] or [n, C]; got {list(preactivation.shape)}")
    h = wide(preactivation)
    rho, information = _of_units("excess_kurtosis", excess_kurtosis, h), _of_units("fisher", fisher, h)
    if bool((information < 0).any()):
        raise SpecError(f"fisher={came(fisher)} should be 0 or more, a mean of squares")
    return Strength(
        (rho + 2) / (8 * batch_size) * information,
        h.sigmoid().mean(0) / (2 * batch_size),
        (rho + 2) / (4 * batch_size),
        torch.full_like(rho, 1 / batch_size),
    )


def _of_units(name: str, value: Any, h: Tensor) -> Tensor:
    try:
        found = torch.as_tensor(value, dtype=h.dtype, device=h.device)
    except (TypeError, ValueError, RuntimeError):
        raise SpecError(f"{name} should be numbers, [] or [C]; got {came(value)}") from None
    if found.shape not in (torch.Size(()), h.shape[1:]):
        raise SpecError(f"{name} should be [] or {list(h.shape[1:])}, as the units are; got {list(found.shape)}")
    return found


@dataclass(frozen=True)
class LayerStrength:
    """Of one layer, by channel.

    Args:
        strength: ζ and its parts, [C]. penalty: Σ ζ γ² over the channels, in units of the loss.
    """

    name: str
    strength: Strength
    penalty: float


def layer_strengths(model: nn.Module, loss: Loss, *, batch_size: int | None = None) -> list[LayerStrength]:
    """Estimate the strength of every batch normalization that trains γ, from one batch in training mode.

    This batch stands for the population: give a large one. I(γ) is the mean of the squared gradients of the examples,
    which takes the loss to be the mean over them. Maps are taken for as many values of one unit, of which only the
    examples count as independent.

    Args:
        loss: computes the loss on a fixed batch: `lambda: cross_entropy(model(x), y)`.
        batch_size: M, that of the training; None for the size of this batch.

    Raises:
        SpecError: see `surface`; there is no such layer, or it is not reached.
    """
    found: dict[str, LayerStrength] = {}
    targets = [Target(site.name, site.module, norm_type(site.module)) for site in norm_sites(model)]
    chosen = [at for at in targets if at.norm is not None and at.norm.kind == "batch" and not at.norm.frozen]
    chosen = [at for at in chosen if why_not(at) is None and at.affine().weight is not None]
    with ExitStack() as hooks, surface(model, loss, training=True) as around:
        for at in chosen:
            watch = _watch(at, found, batch_size)  # before the hook that `convert` gives to what it exchanged
            hooks.callback(at.module.register_forward_hook(watch, prepend=True).remove)
        around.gradient()
    if not found:
        raise SpecError("no batch normalization with a weight was reached by a gradient")
    return [found[at.name] for at in chosen if at.name in found]


def _watch(target: Target, found: dict[str, LayerStrength], batch_size: int | None) -> Callable[..., None]:
    def hook(_: nn.Module, args: tuple[Any, ...], y: Any) -> None:
        if not (torch.is_grad_enabled() and isinstance(y, Tensor) and y.requires_grad):
            return
        x = args[0].detach()

        def returning(delta: Tensor) -> None:
            with torch.no_grad():
                found[target.name] = _of_layer(target, x, wide(delta), batch_size)

        y.register_hook(returning)

    return hook


def _of_layer(target: Target, x: Tensor, delta: Tensor, batch_size: int | None) -> LayerStrength:
    xhat = standard(target, x).xhat
    weight, bias = target.affine()
    assert weight is not None
    n, c = xhat.shape[:2]
    gamma = wide(weight)
    beta = torch.zeros_like(gamma) if bias is None else wide(bias)
    of_examples = n * (delta * xhat).reshape(n, c, -1).sum(2)  # the loss is a mean, which divides each by n
    values = xhat.transpose(0, 1).reshape(c, -1)
    kurtosis = values.pow(4).mean(1) / values.square().mean(1).square() - 3
    strength = regularisation_strength(
        (values * gamma[:, None] + beta[:, None]).T,
        batch_size=n if batch_size is None else batch_size,
        excess_kurtosis=kurtosis,
        fisher=of_examples.square().mean(0),
    )
    return LayerStrength(target.name, strength, float((strength.zeta * gamma.square()).sum()))
