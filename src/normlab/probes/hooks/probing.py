"""The context in which probes measure."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType

import torch

from normlab.errors import SpecError
from normlab.probes.hooks.clock import Clock
from normlab.probes.hooks.plan import Key, Plan, key_of
from normlab.probes.hooks.steps import Steps
from normlab.probes.hooks.tally import as_floats
from normlab.probes.hooks.watch import Watch
from normlab.probes.loggers import Logger


class Probing:
    """What `probe` gives: the context, and what was measured in it.

    Attributes:
        rows: for each measured step `{"step": 0, "norm/<module>/<probe>": value, ...}`.
        missing: by key, why there is no value of it in any row.
        nonfinite: by key, the first step at which it was NaN or infinite.
        steps_done: steps since the start of the context.
    """

    def __init__(
        self,
        plan: Plan,
        steps: Steps,
        logs: Sequence[Logger],
        *,
        scaler: torch.amp.GradScaler | None = None,
        force_eager: bool = False,
    ) -> None:
        self.rows: list[dict[str, float]] = []
        self.missing: dict[str, str] = {}
        self.nonfinite: dict[str, int] = {}
        self.steps_done = 0
        self._plan, self._steps, self._logs = plan, steps, logs
        self._scaler, self._force_eager = scaler, force_eager
        self._clock: Clock | None = None
        self._watch: Watch | None = None
        self._open = ExitStack()
        self._used = False
        self._others = 0
        self._told = self._has_watched = False
        self._seen: set[Key] = set()

    @property
    def last(self) -> dict[str, float]:
        """The values of the newest row by key; empty before the first."""
        return {key: value for key, value in self.rows[-1].items() if key != "step"} if self.rows else {}

    @property
    def places(self) -> dict[str, str]:
        """By layer, the activation module behind which its output is measured, where there is one."""
        return dict(self._plan.followed)

    @property
    def _number(self) -> int:
        return self._steps.start + self.steps_done

    def step(self) -> None:
        """End a step of a training without an optimizer of torch's; from the first call on none is listened to.

        Raises:
            SpecError: outside of the context; an optimizer has ended steps already, and they would count twice.
        """
        if self._clock is None:
            raise SpecError("step() ends a step inside the block: with normlab.probe(...) as p: ... p.step()")
        if self._clock.ticks:
            raise SpecError("the model's optimizer ends the steps, and step() would end each once more: leave it out")
        self._clock.stop()
        self._advance()

    def __enter__(self) -> Probing:
        if self._used:
            raise SpecError("these probes have been used: make new ones with normlab.probe(...)")
        self._used = True
        self._plan.keep_references()
        self._begin()
        self._clock = Clock(self._plan.model, self._advance)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        watch = self.close()
        if kind is not None:
            return
        if watch is not None and watch.has_passed:
            self._keep(watch)
            if self.steps_done == 0 and watch.passes > 1 and self._plan.mode == "train":
                self._warn(
                    f"no optimizer of the model has stepped, so its {watch.passes} passes count as one step. Call "
                    "p.step() at the end of each"
                )
        if not self.rows and not self._told:
            self._warn(f"the probes measured nothing: {self._why_nothing(watch)}")

    def close(self) -> Watch | None:
        """Take the hooks off, without what an unfinished step has measured, as when the block raises.

        Returns:
            What has measured that step, if one is.
        """
        if self._clock is not None:
            self._clock.stop()
            self._clock = None
        return self._end()

    def _begin(self) -> None:
        if self._number not in self._steps:
            return
        self._watch, self._has_watched = Watch(self._plan), True
        with ExitStack() as stack:
            stack.callback(self._watch.stop)
            if self._force_eager:
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            self._watch.start()
            self._open = stack.pop_all()

    def _end(self) -> Watch | None:
        watch, self._watch = self._watch, None
        self._open.close()
        return watch

    def _advance(self) -> None:
        watch = self._end()
        if watch is not None:
            self._keep(watch)
        self.steps_done += 1
        self._begin()

    def _keep(self, watch: Watch) -> None:
        """Make a row of what was measured, and tell the loggers."""
        self._others += watch.others
        found = {key: results for key, tally in watch.tallies.items() if (results := tally.results())}
        self._seen |= found.keys()
        if found or watch.has_passed:
            self._note_missing(watch)
        if not found:
            return
        parts = [(key, part) for key, results in found.items() for part in results]
        numbers = as_floats(found[key][part] for key, part in parts)
        values = {
            sys.intern(key_of(*key, part)): self._unscaled(key, number)
            for (key, part), number in zip(parts, numbers, strict=True)
        }
        self.rows.append({"step": self._number, **values})
        for key, value in values.items():
            if not math.isfinite(value):
                self.nonfinite.setdefault(key, self._number)
        for logger in self._logs:
            logger.log(dict(values), self._number)

    def _unscaled(self, key: Key, value: float) -> float:
        return value if self._scaler is None or key not in self._plan.gradients else value / self._scaler.get_scale()

    def _note_missing(self, watch: Watch) -> None:
        reasons = dict(self._plan.refused)
        for at, probes in self._plan.probes.items():
            reasons |= {(at.name, one.name): watch.reason(at, one) for one in probes}
        missing = {key: why for key, why in reasons.items() if key not in self._seen}
        self.missing = {key_of(*key): why for key, why in missing.items()}
        if self._told:
            return
        self._told = True
        for name in sorted({name for _, name in reasons}):
            whys = {why for (_, one), why in missing.items() if one == name}
            if all(one != name for _, one in self._seen):
                self._warn(f"{name} was measured at no layer: {'; '.join(sorted(whys)[:2])}")

    def _why_nothing(self, watch: Watch | None) -> str:
        others = self._others + (0 if watch is None else watch.others)
        if others:
            other = "eval" if self._plan.mode == "train" else "training"
            return f"all passes were in {other} mode, and mode={self._plan.mode!r}"
        if not self._has_watched:
            return f"of the steps {self._steps.start} to {self._number}, none is among {self._steps}"
        return "no pass reached a layer; compiled functions around the model call no hooks"

    @staticmethod
    def _warn(text: str) -> None:
        warnings.warn(text, stacklevel=3)
