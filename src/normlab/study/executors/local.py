"""Run on this machine: worker processes that each take one run after another."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import cloudpickle
import loky
from loky import ProcessPoolExecutor
from loky.process_executor import BrokenProcessPool

from normlab.errors import SpecError
from normlab.study.plan import RunSpec
from normlab.study.run import Options, Outcome, TrainFunction, attempt
from normlab.study.store import Store

# glibc gives large blocks back and maps them anew for every batch, which takes longer than a BatchNorm's arithmetic.
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
    "MALLOC_TOP_PAD_": str(1 << 26),
}


@dataclass(frozen=True)
class Event:
    """A run started, or ended with `outcome`; None while nothing happened for `POLL` seconds."""

    kind: Literal["started", "ended", "waiting"]
    run: RunSpec | None = None
    outcome: Outcome | None = None


POLL = 0.5


def default_workers(threads: int) -> int:
    """As many as there are groups of `threads` cores that this process may use, a container's quota included."""
    return max(1, loky.cpu_count() // threads)


def execute(
    function: TrainFunction, runs: Iterable[RunSpec], store: Store, options: Options, *, workers: int
) -> Generator[Event, None, None]:
    """Carry out `runs` in order, `workers` at a time, and report as it goes.

    With no workers everything happens in this process, which a debugger likes. Closing the iterator kills the
    workers; what they had not finished resumes from its checkpoint another time.
    """
    if workers == 0:
        yield from _here(function, runs, store, options)
        return
    _check_travels(function)
    waiting, suspects = deque(runs), deque[RunSpec]()
    while waiting or suspects:
        # A dead worker takes its pool with it and nobody knows whose run it was: each one lost is tried again alone.
        alone = bool(suspects)
        batch = deque([suspects.popleft()]) if alone else waiting
        lost = yield from _drain(function, batch, store, options, 1 if alone else min(workers, len(waiting)))
        if alone and lost:
            error = "its worker process died twice; killed for memory?"
            store.write_failure(lost[0].key, error)
            yield Event("ended", lost[0], Outcome(lost[0], "failed", 0.0, error=error))
        else:
            suspects.extend(lost)


def _here(function: TrainFunction, runs: Iterable[RunSpec], store: Store, options: Options) -> Iterator[Event]:
    for run in runs:
        yield Event("started", run)
        yield Event("ended", run, attempt(function, run, store, options))


def _drain(
    function: TrainFunction, waiting: deque[RunSpec], store: Store, options: Options, workers: int
) -> Generator[Event, None, list[RunSpec]]:
    """Feed a pool from `waiting` until all is done, or until a worker dies; returns the runs lost with it."""
    threads = {"OMP_NUM_THREADS": str(options.threads), "MKL_NUM_THREADS": str(options.threads)}
    pool = ProcessPoolExecutor(
        workers, timeout=None, initializer=_start_worker, initargs=(os.getpid(),), env={**KEEP_MEMORY, **threads}
    )
    running: dict[Future[Outcome], RunSpec] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                with _interrupts_ignored():
                    future = pool.submit(attempt, function, waiting[0], store, options)
                running[future] = waiting.popleft()
                yield Event("started", running[future])
            done, _ = wait(running, timeout=POLL, return_when=FIRST_COMPLETED)
            for future in [f for f in done if not isinstance(f.exception(), BrokenProcessPool)]:
                yield Event("ended", running.pop(future), future.result())
            if any(future in running for future in done):
                return list(running.values())
            if not done:
                yield Event("waiting")
        return []
    except BrokenProcessPool:  # it broke before it could take the next run, which is still waiting
        return list(running.values())
    finally:
        pool.shutdown(wait=True, kill_workers=True)


def _check_travels(function: TrainFunction) -> None:
    try:
        cloudpickle.dumps(function)
    except Exception as error:
        raise SpecError(
            f"the training function cannot be sent to a worker process ({error}); create what it holds inside it, or "
            "run with workers=0"
        ) from None


@contextmanager
def _interrupts_ignored() -> Generator[None, None, None]:
    """A process started inside ignores Ctrl-C from its first instruction on; stopping is the parent's business."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _start_worker(parent: int) -> None:
    """A worker whose parent is gone goes too, so that the store is left alone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
