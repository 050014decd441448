"""Run on this machine: worker processes that each take one run after another."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import loky
from loky import ProcessPoolExecutor
from loky.process_executor import BrokenProcessPool

from normlab.study.distributed import QUIET
from normlab.study.executors.events import POLL, Event
from normlab.study.executors.gpus import placed, seats, share_of
from normlab.study.executors.travel import packed, unpacked
from normlab.study.plan import RunSpec
from normlab.study.run import Options, Outcome, TrainFunction, attempt
from normlab.study.store import Store

# glibc gives large blocks back and maps them anew for every batch, which takes longer than a BatchNorm's arithmetic.
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
    "MALLOC_TOP_PAD_": str(1 << 26),
}
# ... and maps it in pages of 4 kB unless asked for large ones, which make a float32 step of a ResNet-18 6 % faster
OWN_MEMORY = {**KEEP_MEMORY, "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")}
DIED_TWICE = "its worker process died twice; killed for memory?"


def default_workers(threads: int) -> int:
    """As many as there are groups of `threads` cores that this process may use, a container's quota included."""
    return max(1, loky.cpu_count() // threads)


def execute(
    function: TrainFunction,
    waiting: deque[RunSpec],
    store: Store,
    options: Options,
    *,
    workers: int | None = None,
) -> Generator[Event, None, None]:
    """Carry out `waiting` in processes of this machine; see `Executor`.

    With no workers everything happens in this process, which a debugger likes. On GPUs each worker sees those of its
    own runs only; `options.gpus` says how many share one.
    """
    import torch

    options = placed(options, torch.cuda.is_available())
    if workers == 0:
        yield from _here(function, waiting, store, options)
        return
    payload = packed(function)
    team = team_of(options, workers)
    try:
        yield from _feed(team, payload, waiting, store)
    finally:
        for worker in team:
            worker.stop()


def _here(function: TrainFunction, waiting: deque[RunSpec], store: Store, options: Options) -> Iterator[Event]:
    while waiting:
        run = waiting.popleft()
        yield Event("started", run)
        yield Event("ended", run, attempt(function, run, store, options))


@dataclass
class Worker:
    """A process that takes one run at a time; it starts with its first one, and anew after it died."""

    options: Options
    environment: Mapping[str, str]
    _pool: ProcessPoolExecutor | None = field(default=None, repr=False)

    def submit(self, payload: bytes, run: RunSpec, store: Store) -> Future[Outcome]:
        """Begin a run."""
        try:
            return self._submit(payload, run, store)
        except BrokenProcessPool:  # it died while it had nothing to do
            self.stop()
            return self._submit(payload, run, store)

    def _submit(self, payload: bytes, run: RunSpec, store: Store) -> Future[Outcome]:
        with _interrupts_ignored():
            if self._pool is None:
                self._pool = ProcessPoolExecutor(
                    1, timeout=None, initializer=_start_worker, initargs=(os.getpid(),), env=dict(self.environment)
                )
            return self._pool.submit(_attempt, payload, run, store, self.options)

    def stop(self) -> None:
        """Kill the process, whatever it does."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, kill_workers=True)
            self._pool = None


def _attempt(payload: bytes, run: RunSpec, store: Store, options: Options) -> Outcome:
    return attempt(unpacked(payload), run, store, options)


def environment_of_run(options: Options) -> dict[str, str]:
    """What a process that carries out runs needs in its environment, wherever it is."""
    threads = {"OMP_NUM_THREADS": str(options.threads), "MKL_NUM_THREADS": str(options.threads)}
    return {**OWN_MEMORY, **threads, **(QUIET if options.devices > 1 else {})}


def team_of(options: Options, workers: int | None) -> list[Worker]:
    """The workers, none of them started, in the order in which they get their first runs."""
    common = environment_of_run(options)
    if not options.device.startswith("cuda"):
        count = default_workers(options.threads * options.devices) if workers is None else workers
        return [Worker(options, common) for _ in range(count)]
    places = seats(share_of(options), options.device, workers)
    seated = replace(options, device="cuda:0")  # the first of those that the worker sees
    return [Worker(seated, {**common, "CUDA_VISIBLE_DEVICES": ",".join(gpus)}) for gpus in places]


def _feed(team: list[Worker], payload: bytes, waiting: deque[RunSpec], store: Store) -> Generator[Event, None, None]:
    """Hand runs to workers until none is left. A run whose worker died is tried again, once, when it is alone."""
    idle, suspects = deque(team), deque[RunSpec]()
    running: dict[Future[Outcome], tuple[Worker, RunSpec]] = {}
    alone: RunSpec | None = None  # two that need much memory may have killed each other
    while waiting or running or suspects:
        while idle and alone is None and (waiting or (suspects and not running)):
            alone = None if waiting else suspects[0]
            run = (waiting or suspects).popleft()
            worker = idle.popleft()
            running[worker.submit(payload, run, store)] = worker, run
            yield Event("started", run)
        done, _ = wait(running, timeout=POLL, return_when=FIRST_COMPLETED)
        for future in done:
            worker, run = running.pop(future)
            idle.appendleft(worker)  # those that are warm first
            if not isinstance(future.exception(), BrokenProcessPool):
                outcome = future.result()
                if outcome.status == "failed" and worker.options.device != "cpu":
                    worker.stop()  # an error may leave a process that no longer can use its GPU
                yield Event("ended", run, outcome)
            elif run is alone:
                store.write_failure(run.key, DIED_TWICE)
                yield Event("ended", run, Outcome(run, "failed", 0.0, error=DIED_TWICE))
            else:
                suspects.append(run)
                yield Event("lost", run, note="its worker process died; it is tried again, alone")
            alone = None if run is alone else alone
        if not done:
            yield Event("waiting")


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
