"""One run: call the training function, keep what it returns, or why it failed."""

from __future__ import annotations

import errno
import math
import reprlib
import traceback
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from normlab.errors import ProcessLost, SpecError, StoreError, last_line
from normlab.seeding import Streams
from normlab.study.context import Context, Diverged
from normlab.study.distributed import World
from normlab.study.environment import environment
from normlab.study.plan import RunSpec
from normlab.study.result import RunResult
from normlab.study.store import Store

NO_ROOM = errno.ENOSPC, errno.EDQUOT

TrainFunction = Callable[[Any, Streams, Context], Mapping[str, Any]]


@dataclass(frozen=True)
class Options:
    """How runs are carried out; nothing here changes their numbers on a CPU, `threads` and `devices` aside.

    Attributes:
        threads: torch threads, and cores, of each process of a run.
        device: "cpu", "cuda", "cuda:1", "mps", or "auto", which executors settle before a run starts.
        devices: processes of a run, which share each batch.
        gpus: of each process; 0.25 puts four runs on one.
        memory: GiB of a run, for Ray to place it by.
        checkpoint_seconds: time between checkpoints.
    """

    threads: int = 1
    device: str = "cpu"
    devices: int = 1
    gpus: float = 0.0
    memory: float | None = None
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
        ProcessLost: so that no other run can be carried out either.
    """
    context = Context(
        store.prepare(run.key), options.device, options.checkpoint_seconds, keep=partial(store.keep, run.key)
    )
    try:
        with threads(options.threads), _world(function, run, options) as context.world:
            result = _call(function, run, context, options)
        store.write(result)
        return Outcome(run, result.status, result.seconds, tuple(result.metrics))
    except StoreError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise StoreError(_full(error, store)) from None
        store.write_failure(run.key, traceback.format_exc())
        if isinstance(error, ProcessLost):
            raise
        return Outcome(run, "failed", context.elapsed, error=last_line(error))


def _full(error: OSError, store: Store) -> str:
    where = f" ({error.filename})" if error.filename else ""
    return (
        f"the training function could not write: {error.strerror}{where}; what is finished is kept in {store}, and the "
        "same command goes on"
    )


@contextmanager
def _world(function: TrainFunction, run: RunSpec, options: Options) -> Generator[World, None, None]:
    """The processes of the run: this one, or this one and others, who carry it out with us inside."""
    if options.devices == 1:
        yield World()
        return
    from normlab.study.processes.helper import Task
    from normlab.study.processes.team import shared

    with shared(Task(function, run, options)) as round_:
        yield round_.world


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
            "environment": {
                **environment(options.device, options.threads),
                **({"processes": str(context.world.size)} if context.world.size > 1 else {}),
                **context.facts,
            },
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


@contextmanager
def threads(count: int) -> Generator[None, None, None]:
    """torch's thread count inside; it decides how sums are split, so it is part of what makes a run repeatable."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
