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
from normlab.probes.loggers import Logger, Logs


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
        manual: bool = False,
    ) -> None:
        self.rows: list[dict[str, float]] = []
        self.missing: dict[str, str] = {}
        self.nonfinite: dict[str, int] = {}
        self.steps_done = 0
        self._plan, self._steps, self._logs = plan, steps, Logs(logs)
        self._scaler, self._force_eager, self._manual = scaler, force_eager, manual
        self._clock: Clock | None = None
        self._watch: Watch | None = None
        self._held: Watch | None = None
        self._open = ExitStack()
        self._used = self._on = False
        self._others = 0
        self._told = self._has_watched = False
        self._gone: set[str] = set()
        self._seen: set[Key] = set()

    @property
    def last(self) -> dict[str, float]:
        """The values of the newest row by key; empty before the first."""
        return {key: value for key, value in self.rows[-1].items() if key != "step"} if self.rows else {}

    @property
    def places(self) -> dict[str, str]:
        """By layer, the activation module behind which its output is measured.

        A layer that is not named here is measured at its own output: before what follows, such as `F.relu`.
        """
        return dict(self._plan.followed)

    @property
    def _number(self) -> int:
        return self._steps.start + self.steps_done

    def step(self) -> None:
        """End a step of a training without an optimizer of torch's, or with `manual=True`.

        From the first call on no optimizer is listened to.

        Raises:
            SpecError: outside of the context; an optimizer has ended steps already, and they would count twice.
        """
        if not self._on:
            raise SpecError("step() ends a step inside the block: with normlab.probe(...) as p: ... p.step()")
        if self._clock is not None and self._clock.heard:
            raise SpecError(
                "the model's optimizer ends the steps, and step() would end each once more: leave it out, or "
                "probe(..., manual=True)"
            )
        self._listen_no_more()
        self._advance()

    def __enter__(self) -> Probing:
        if self._used:
            raise SpecError("these probes have been used: make new ones with normlab.probe(...)")
        self._used = self._on = True
        self._plan.keep_references()
        self._begin(self._number)
        self._clock = None if self._manual else Clock(self._plan.model, self._advance, self._hold, self._release)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._clock is not None and self._clock.holds:
            self._clock.settle()
        watch = self.close()
        if kind is not None:
            return
        self._note_replaced()
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
        self._listen_no_more()
        self._on, self._held = False, None
        return self._end()

    def _listen_no_more(self) -> None:
        if self._clock is not None:
            self._clock.stop()
            self._clock = None

    def _begin(self, *numbers: int) -> None:
        """Measure, if the step is chosen that has begun, or one of those that may have."""
        if not any(number in self._steps for number in numbers):
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

    def _hold(self) -> None:
        """What was measured belongs to this step, and what comes now to this one or to the next."""
        self._held = _joined(self._held, self._end())
        if self._held is not None and self._scaler is not None:
            self._held.scale = self._scaler.get_scale()
        self._begin(self._number, self._number + 1)

    def _release(self) -> None:
        """What was held was a step, and the next has begun since."""
        held, self._held = self._held, None
        self._finish(held)
        if self._number not in self._steps:
            self._end()

    def _advance(self) -> None:
        watch = _joined(self._held, self._end())
        self._held = None
        self._finish(watch)
        self._begin(self._number)

    def _finish(self, watch: Watch | None) -> None:
        if watch is not None and self._number in self._steps:
            self._note_replaced()
            self._keep(watch)
        self.steps_done += 1

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
        scale = self._scale(watch)
        values = {
            sys.intern(key_of(*key, part)): number / scale if key in self._plan.gradients else number
            for (key, part), number in zip(parts, numbers, strict=True)
        }
        self.rows.append({"step": self._number, **values})
        for key, value in values.items():
            if not math.isfinite(value):
                self.nonfinite.setdefault(key, self._number)
        self._logs.log(values, self._number)

    def _note_replaced(self) -> None:
        """Say once of each layer that the model no longer has it, or not under this name."""
        held = {id(module) for module in self._plan.model.modules()}
        gone = {at.name for at in self._plan.probes if id(at.module) not in held} - self._gone
        if gone:
            self._gone |= gone
            self._warn(
                f"{', '.join(sorted(gone))}: replaced or removed inside the block, and measured no more from step "
                f"{self._number} on; a new block measures what is there now"
            )

    def _scale(self, watch: Watch) -> float:
        """By which the gradients of a step were multiplied: the scaler may have changed it since they were held."""
        return watch.scale or (1.0 if self._scaler is None else self._scaler.get_scale())

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


def _joined(first: Watch | None, then: Watch | None) -> Watch | None:
    """What two parts of a step have measured together."""
    if first is None or then is None:
        return first or then
    first.join(then)
    return first
