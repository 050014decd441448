"""Trains one network, and measures it on the way and at the end."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from normlab import probes as P
from normlab.errors import SpecError
from normlab.landscape import parts
from normlab.landscape.batches import Batches
from normlab.landscape.parts import Settings
from normlab.landscape.result import Track
from normlab.layers import set_progress
from normlab.probes.whole.calls import call_order
from normlab.surgery import frozen_stats, norm_sites, recalibrate
from normlab.surgery.freeze import is_frozen
from normlab.surgery.statistics.kept import keepers

Tick = Callable[[], None]
ANEW = (
    "running statistics are taken anew on the batches of training for accuracy, ablation and slices, which are those "
    "of eval mode; all else normalizes by the batch"
)


class Walk:
    """A network on its way.

    Args:
        model: is trained, so a copy. tick: is called after each pass.
        notes: gets what could not be measured.
    """

    def __init__(self, model: nn.Module, batches: Batches, settings: Settings, tick: Tick, notes: list[str]) -> None:
        self.model, self.batches, self.settings = model, batches, settings
        self.tick, self.notes = tick, notes
        self.curves: dict[int, P.Landscape] = {}
        self.ics: dict[int, P.CovariateShift] = {}
        self.lipschitz: dict[int, tuple[P.LipschitzRatio, ...]] = {}
        self.losses: list[float] = []

    def run(self, name: str) -> Track:
        """Train and measure; the name is that of the track."""
        diverged = self._train()
        if diverged is None:
            self._recalibrate(name)
        slice_, surface = (self._slice(name, dimensions, diverged) for dimensions in (1, 2))
        sharpness = {} if diverged is not None else self._sharpness()
        ablation, reliance = ((), ()) if diverged is not None else self._ablation(name)
        accuracy = None
        if self.batches.classified and diverged is None:
            self.model.eval()
            accuracy = self.batches.accuracy(self.model)
        return Track(
            name,
            tuple(self.losses),
            accuracy,
            diverged,
            self.curves,
            self.ics,
            self.lipschitz,
            slice_,
            surface,
            sharpness,
            ablation,
            reliance,
        )

    def _loss(self, step: int) -> Callable[[], Tensor]:
        def loss() -> Tensor:
            self.tick()
            return self.batches.loss_on(self.model, step)

        return loss

    def _train(self) -> int | None:
        """The step at which the loss was no number, or None."""
        s, trained = self.settings, [p for p in self.model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(trained, lr=s.lr)
        listeners = 1
        self.model.train()
        for step in range(s.steps + 1):
            if step in s.at and not self._measure(step):
                return step
            if step == s.steps:
                break
            listeners = listeners and set_progress(self.model, step / s.steps)
            loss = self._loss(step)()
            if not math.isfinite(float(loss.detach())):
                return step
            self.losses.append(float(loss.detach()))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return None

    def _recalibrate(self, name: str) -> None:
        """Eval mode is to show the weights, and not how far the running statistics lag behind them."""
        used = self.batches.classified or {"slice", "surface"} & set(self.settings.parts)
        movable = [site for site, _ in keepers(self.model) if not is_frozen(site.module)]
        if self.settings.as_they_are or not used or not movable:
            return
        try:
            every = range(len(self.batches.inputs))
            recalibrate(self.model, every, forward=lambda _, number: self._loss(number)(), sync=False)
        except SpecError as reason:
            self.notes.append(f"running statistics of {name} are those of training, which lag behind: {reason}")
            return
        if ANEW not in self.notes:
            self.notes.append(ANEW)

    def _measure(self, step: int) -> bool:
        """What is measured on the way; False where the loss is no number."""
        loss, chosen = self._loss(step), self.settings.parts
        with torch.no_grad(), frozen_stats(self.model):
            value = float(loss())
        if not math.isfinite(value):
            return False
        if step == self.settings.steps:
            self.losses.append(value)
        if "curves" in chosen:
            try:
                self.curves[step] = P.landscape(self.model, loss, step_sizes=self.settings.step_sizes)
            except SpecError as reason:
                if "gradient" not in str(reason):
                    raise
                self.notes.append(f"no curves at step {step}: {reason}")
        if step in self.settings.few:
            if "ics" in chosen:
                self.ics[step] = P.internal_covariate_shift(self.model, loss, lr=self.settings.lr)
            if "lipschitz" in chosen:
                self.lipschitz[step] = tuple(P.lipschitz_ratios(self.model, loss))
        return True

    def _slice(self, name: str, dimensions: int, diverged: int | None) -> P.LossSlice | None:
        part, points = ("slice", parts.SLICE_POINTS) if dimensions == 1 else ("surface", parts.SURFACE_POINTS)
        if part not in self.settings.parts or diverged is not None:
            return None
        s = self.settings
        try:
            return P.loss_slice(self.model, self._loss(0), dimensions=dimensions, points=points, seed=s.seed)
        except SpecError as reason:
            if "two dimensions" not in str(reason):
                raise
            self.notes.append(f"no {part} of {name}: {reason}")
            return None

    def _sharpness(self) -> dict[str, tuple[P.Sharpness, ...]]:
        if "sharpness" not in self.settings.parts:
            return {}
        found: dict[str, tuple[P.Sharpness, ...]] = {}
        for scope in parts.SCOPES:
            if scope == "all" or _has_affine(self.model):
                rows = [P.sharpness(self.model, self._loss(0), rho=rho, scope=scope) for rho in parts.RHOS]
                found[scope] = tuple(rows)
        return found

    def _ablation(self, name: str) -> tuple[tuple[P.AblationCurve, ...], tuple[P.ChannelReliance, ...]]:
        if "ablation" not in self.settings.parts or not self.batches.classified:
            return (), ()
        curves: list[P.AblationCurve] = []
        reliances: list[P.ChannelReliance] = []
        for layer, channels in self._layers().items():
            few = sorted({round(k * (channels - 1) / (parts.CHANNELS - 1)) for k in range(parts.CHANNELS)})
            try:
                curves.append(
                    P.ablation_curve(
                        self.model,
                        self._accuracy,
                        layer,
                        orders=parts.ORDERS,
                        points=parts.ABLATION_POINTS,
                        seed=self.settings.seed,
                    )
                )
                reliances.append(P.channel_reliance(self.model, self._accuracy, layer, channels=few))
            except SpecError as reason:
                self.notes.append(f"no ablation of {layer} in {name}: {reason}")
        return tuple(curves), tuple(reliances)

    def _accuracy(self) -> float:
        self.tick()
        return self.batches.accuracy(self.model)

    def _layers(self) -> dict[str, int]:
        """A few of the norms, from the first to the last that is called, with the numbers of their channels."""
        sizes = {site.name: width(site.module) for site in norm_sites(self.model)}
        with torch.no_grad(), frozen_stats(self.model):
            order = [name for name in call_order(self.model, self._loss(0)) if sizes.get(name)]
        number = min(parts.LAYERS, len(order))
        places = {round(k * (len(order) - 1) / max(number - 1, 1)) for k in range(number)}
        return {order[place]: sizes[order[place]] for place in sorted(places)}


def width(norm: nn.Module) -> int:
    """Channels of a norm: as many as its weight has values, or as it says; 0 where it does not say."""
    for name in ("num_features", "num_channels"):
        if isinstance(size := getattr(norm, name, None), int):
            return size
    weight = getattr(norm, "weight", None)
    return len(weight) if isinstance(weight, Tensor) and weight.dim() == 1 else 0


def _has_affine(model: nn.Module) -> bool:
    from normlab.surgery import affine_params

    pairs = [affine_params(site.module) for site in norm_sites(model) if not site.frozen]
    return any(p is not None and p.requires_grad for pair in pairs for p in pair)
