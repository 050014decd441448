"""One run: call the training function, keep what it returns, or why it failed."""

from __future__ import annotations

import math
import reprlib
import traceback
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from normlab.errors import SpecError
from normlab.seeding import Streams
from normlab.study.context import Context, Diverged
from normlab.study.environment import environment
from normlab.study.plan import RunSpec
from normlab.study.store import RunResult, Store

TrainFunction = Callable[[Any, Streams, Context], Mapping[str, Any]]


@dataclass(frozen=True)
class Options:
    """How runs are carried out; nothing here changes their numbers on a CPU, `threads` aside."""

    threads: int = 1
    device: str = "cpu"
    checkpoint_seconds: float = 10.0


@dataclass(frozen=True)
class Outcome:
    """How an attempt at a run ended; `error` is the last line of a failure's traceback."""

    run: RunSpec
    status: Literal["ok", "diverged", "failed"]
    seconds: float
    metrics: tuple[str, ...] = ()
    error: str = ""


def attempt(function: TrainFunction, run: RunSpec, store: Store, options: Options) -> Outcome:
    """Carry out one run and file its result; an exception of the function is filed too, and does not get out.

    Raises:
        StoreError: neither can be filed; the disk is full, say.
    """
    context = Context(store.prepare(run.key), options.device, options.checkpoint_seconds)
    try:
        with _threads(options.threads):
            result = _call(function, run, context, options)
        store.write(result)
        return Outcome(run, result.status, result.seconds, tuple(result.metrics))
    except (Exception, SystemExit) as error:
        store.write_failure(run.key, traceback.format_exc())
        return Outcome(run, "failed", context.elapsed, error=_last_line(error))


def _call(function: TrainFunction, run: RunSpec, context: Context, options: Options) -> RunResult:
    status, reason, counted_as = "ok", "", ""
    try:
        returned = _as_dict(function(run.job, Streams(run.stream_seed), context))
    except Diverged as diverged:
        status, reason, counted_as = "diverged", diverged.reason, diverged.counted_as
        returned = dict(diverged.metrics)
    correct = returned.pop("correct", None)
    metrics = {name: _number(name, value) for name, value in returned.items()}
    if status == "ok" and any(not math.isfinite(value) for value in metrics.values()):
        bad = ", ".join(f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value))
        status, reason = "diverged", bad
    packed, examples = _pack(correct)
    return RunResult.model_validate(
        {
            "key": run.key,
            "seed": run.seed,
            "function": run.function,
            "job": run.job,
            "status": status,
            "reason": reason,
            "counted_as": counted_as,
            "metrics": {name: _finite(value) for name, value in metrics.items()},
            "curves": _curves(context.rows),
            "correct": packed,
            "examples": examples,
            "seconds": context.elapsed,
            "environment": environment(options.device, options.threads),
        }
    )


def _as_dict(returned: Any) -> dict[str, Any]:
    if not isinstance(returned, Mapping):
        text = f"{reprlib.repr(returned)} ({type(returned).__name__})"
        raise SpecError(f'the training function returned {text}; it should return {{"metric": value, ...}}')
    return dict(returned)


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise SpecError(
            f"the training function returned {name}={reprlib.repr(value)} ({type(value).__name__}); a metric is "
            "one number, and only `correct` may be an array (one bool per test example)"
        ) from None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _curves(rows: list[dict[str, float]]) -> dict[str, list[float | None]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [_finite(row.get(name, math.nan)) for row in rows] for name in names}


def _pack(correct: Any) -> tuple[str | None, int]:
    if correct is None:
        return None, 0
    bits = np.asarray(correct)
    if bits.ndim != 1 or bits.dtype != np.bool_:
        raise SpecError(f"`correct` should be [examples] bool, got {bits.dtype} of shape {list(bits.shape)}")
    return np.packbits(bits).tobytes().hex(), len(bits)


def _last_line(error: BaseException) -> str:
    return traceback.format_exception_only(error)[-1].strip()


@contextmanager
def _threads(count: int) -> Generator[None, None, None]:
    """torch's thread count inside; it decides how sums are split, so it is part of what makes a run repeatable."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
