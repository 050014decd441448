"""Run on a Ray cluster: each run is one Ray Core task, placed by what it takes."""

from __future__ import annotations

import re
import time
from collections import Counter, deque
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any, cast

from normlab.errors import NormlabError, SpecError, StoreError, Unavailable
from normlab.study.executors import Executor
from normlab.study.executors.events import POLL, Event
from normlab.study.executors.gpus import placed
from normlab.study.executors.node import carry_out, environment_of, versions
from normlab.study.executors.session import OWN, answers, cannot_work, check_answers, joined
from normlab.study.executors.travel import packed
from normlab.study.plan import RunSpec
from normlab.study.run import Options, Outcome, TrainFunction
from normlab.study.store import Store

PATIENCE = 30.0  # seconds that the head may be away; after 60 Ray ends this process
SEEN = 60.0  # seconds after which a result must be seen here; NFS shows new files late
MOST_DEATHS = {"process": 2, "node": 10}


def connect(on: str) -> Executor:
    """The executor for `--on`; it asks at the address whether somebody is there, and joins with the first run.

    Args:
        on: "ray" for a Ray of our own on this machine; "auto" for the cluster that this machine is part of, or that
            RAY_ADDRESS names; "host:port"; "ray://host:port", through Ray Client.

    Raises:
        SpecError: it reads like none of these.
        Unavailable: ray is not installed, or nobody answers.
    """
    address = OWN if on == "ray" else on
    if not re.fullmatch(r"local|auto|(ray://)?[^\s:/]+:\d{1,5}", address):
        raise SpecError(f"--on {on}: should be local, ray, or a Ray cluster: auto, host:port or ray://host:port")
    if find_spec("ray") is None:
        raise Unavailable(f"--on {on} needs Ray: pip install 'normlab[ray]'")
    if ":" in address:
        check_answers(address)
    return Cluster(address)


@dataclass(frozen=True)
class Cluster:
    """An executor that joins a Ray cluster, or starts one, for as long as it has runs."""

    address: str

    def __call__(
        self,
        function: TrainFunction,
        waiting: deque[RunSpec],
        store: Store,
        options: Options,
        *,
        workers: int | None = None,
    ) -> Generator[Event, None, None]:
        """Carry out `waiting` as tasks of the cluster; see `Executor`."""
        if workers == 0:
            raise SpecError("workers=0 runs in this process, which is not for --on ray")
        payload = packed(function)
        with joined(self.address, options):
            feed = Feed(payload, store, _settled(options), workers, self.address == OWN)
            try:
                yield from feed.events(waiting)
            finally:
                feed.stop()


@dataclass
class Feed:
    """Tasks in flight: no more than there is room for, so that a study of thousands does not fill the cluster's head.

    A run whose process or node dies is begun again, from its last checkpoint.
    """

    payload: bytes
    store: Store
    options: Options
    workers: int | None
    own: bool
    running: dict[Any, RunSpec] = field(default_factory=dict[Any, RunSpec])
    deaths: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])

    def __post_init__(self) -> None:
        import ray
        from ray.util.client import ray as client

        self._head = "" if client.is_connected() else ray.get_runtime_context().gcs_address
        self._takes = takes(self.options)
        self._payload = ray.put(self.payload)
        memory: dict[str, Any] = {"memory": int(self._takes["memory"])} if "memory" in self._takes else {}
        self._task = ray.remote(
            num_cpus=self._takes["CPU"],
            num_gpus=self._takes.get("GPU", 0),
            max_retries=0,  # we do that, and say so
            max_calls=1 if self.options.devices > 1 and "GPU" in self._takes else 0,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": environment_of(self.options)},
            **memory,
        )(carry_out)

    def events(self, waiting: deque[RunSpec]) -> Iterator[Event]:
        """Submit, wait, report."""
        import ray

        again = deque[RunSpec]()
        told = False
        while waiting or again or self.running:
            room = self._room()
            if room == 0 and not told:
                told = True
                yield Event("waiting", note=self._no_room())
            while (again or waiting) and len(self.running) < (self.workers or max(1, room)):
                run = (again or waiting).popleft()
                self.running[self._submit(run)] = run
                yield Event("started", run)
            done, _ = ray.wait(list(self.running), timeout=POLL)
            for event in map(self._ended, done):
                if event.kind == "lost" and event.run is not None:
                    again.append(event.run)
                yield event
            if not done:
                yield Event("waiting")

    def stop(self) -> None:
        """Kill what is running."""
        import ray

        with suppress(Exception):  # the cluster may be gone
            for task in self.running:
                ray.cancel(task, force=True)

    def _submit(self, run: RunSpec) -> Any:
        return self._task.remote(self._payload, run, self.store, self.options, versions())

    def _ended(self, task: Any) -> Event:
        import ray
        from ray.exceptions import NodeDiedError, OutOfMemoryError, RayError, WorkerCrashedError

        run = self.running.pop(task)
        try:
            outcome: Outcome | NormlabError = cast(Any, ray.get(task))
        except NodeDiedError:
            return self._lost(run, "node")
        except (WorkerCrashedError, OutOfMemoryError):
            return self._lost(run, "process")
        except RayError as error:
            raise Unavailable(cannot_work(error)) from None
        if isinstance(outcome, NormlabError):
            raise outcome
        if outcome.status != "failed":
            self._check_seen(run)
        return Event("ended", run, outcome)

    def _lost(self, run: RunSpec, what: str) -> Event:
        self.deaths[run.key, what] += 1
        if self.deaths[run.key, what] < MOST_DEATHS[what]:
            return Event("lost", run, note=f"its {what} died; it goes on from its last checkpoint")
        error = f"its {what} died {MOST_DEATHS[what]} times; killed for memory?"
        self.store.write_failure(run.key, error)
        return Event("ended", run, Outcome(run, "failed", 0.0, error=error))

    def _check_seen(self, run: RunSpec) -> None:
        deadline = time.monotonic() + SEEN
        while self.store.load(run.key) is None:
            if time.monotonic() > deadline:
                raise StoreError(
                    f"a node finished {run.arm}, seed {run.seed}, and {self.store} does not show it here; "
                    "the store must be on storage that all nodes and this machine share"
                )
            time.sleep(0.2)

    def _room(self) -> int:
        """How many runs fit on the nodes that are alive."""
        import ray

        self._check_head()
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return sum(min(int(node.get(kind, 0) / n + 1e-9) for kind, n in self._takes.items() if n) for node in nodes)

    def _check_head(self) -> None:
        """Wait a while for a head that is away: asking Ray would hang, and then end this process."""
        deadline = time.monotonic() + PATIENCE
        while self._head and not answers(self._head):
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"the head of the Ray cluster at {self._head} is gone; what is finished is kept in {self.store}, "
                    "and the same command goes on"
                )
            time.sleep(POLL)

    def _no_room(self) -> str:
        wanted = ", ".join(_amount(kind, n) for kind, n in self._takes.items() if n)
        if self.own:
            raise SpecError(f"resources: a run takes {wanted}, which this machine does not have")
        return f"no node has what a run takes ({wanted}); waiting for one"


def takes(options: Options) -> dict[str, float]:
    """What a run takes, by Ray's names: all its processes together."""
    amounts = {"CPU": float(options.threads * options.devices)}
    if options.device.startswith("cuda"):
        each = options.gpus or 1.0
        amounts["GPU"] = each if options.devices == 1 else float(options.devices * -(-each // 1))
    if options.memory is not None:
        amounts["memory"] = options.memory * 2**30
    return amounts


def _amount(kind: str, n: float) -> str:
    return f"{n / 2**30:g} GiB" if kind == "memory" else f"{n:g} {kind}"


def _settled(options: Options) -> Options:
    import ray

    gpus = ray.cluster_resources().get("GPU", 0) > 0
    options = placed(options, gpus)
    if options.device.startswith("cuda:"):
        raise SpecError(f"--device {options.device}: Ray chooses which GPU; --device cuda")
    if options.device == "cuda" and not gpus:
        raise Unavailable("there is no GPU in the Ray cluster; --device cpu")
    return options if options.device != "cuda" else replace(options, device="cuda:0")
