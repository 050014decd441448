"""The front door: a study as an object, its runs carried out, its results compared."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Literal

from normlab.errors import SpecError
from normlab.seeding import SeedScheme
from normlab.study import train as builtin
from normlab.study.agenda import Agenda
from normlab.study.distributed import launched, taken
from normlab.study.executors import executor
from normlab.study.identity import identity
from normlab.study.objects import load_object
from normlab.study.plan import RunSpec, own_jobs, plan, schedule
from normlab.study.reading import load, validate
from normlab.study.results import Results, definition
from normlab.study.run import Options, TrainFunction
from normlab.study.spec import OwnStudySpec, Protocol
from normlab.study.status import Status, survey
from normlab.study.store import Store
from normlab.study.training import rehearse
from normlab.study.usable import judged


class Study:
    """Arms × seeds, trained by the built-in trainer (`Study.load`) or by a function of yours.

    Args:
        arms: name → what `train` gets to tell the arms apart: text, a number, a list or dict of them. It is hashed.
        train: `train(arm, streams, context) -> {"metric": value, ...}`. Draw every random number from `streams`, and
            the arms are paired; keep state through `context.checkpoint`, and an interrupted run resumes. Return
            `correct`, [test examples] bool, too, and the uncertainty of the test set is told. Its source, and what it
            refers to in its own file, are part of every run's hash: change them, and the runs are made again.
        seeds: how many (1, 2, ...) or which.
        baseline: the control arm; the first one unless named.
        metric: which of the returned numbers is compared.
        better: whether high or low values of it are good.
        equivalence: margin within which arms count as equivalent, in the unit of the metric; None = not tested.
        name: of the study and its store; the function's name unless given.
        question, seed_scheme, alpha, alternative: as in a study file.
        stopping: a rule, "obrien_fleming", or a table as in a study file, `{"rule": "pocock", "looks": [5, 10, 15]}`.

    Raises:
        SpecError: a baseline that is no arm, one seed or arm only, an arm that is not plain data.
    """

    def __init__(  # noqa: PLR0913 (what a study file may say)
        self,
        arms: Mapping[str, Any],
        *,
        train: TrainFunction,
        seeds: int | Sequence[int] = 15,
        baseline: str | None = None,
        metric: str = "metric",
        better: Literal["higher", "lower"] = "higher",
        equivalence: float | None = None,
        name: str | None = None,
        question: str = "",
        seed_scheme: SeedScheme = "plain",
        alpha: float = 0.05,
        alternative: Literal["greater", "two-sided"] = "greater",
        stopping: str | Mapping[str, Any] = "fixed",
    ) -> None:
        if not callable(train):
            raise SpecError(f"train={train!r} should be a function train(arm, streams, context)")
        unnamed = [arm for arm in arms if not isinstance(arm, str) or not arm.strip()]  # pyright: ignore[reportUnnecessaryIsInstance]
        if unnamed:
            raise SpecError(f"arms: {unnamed[0]!r} is no name; write a string")
        if not arms:
            raise SpecError("arms: none given; a study compares at least one arm with a baseline")
        analysis = {"better": better, "equivalence": equivalence, "alpha": alpha, "alternative": alternative}
        tree = {
            "name": name or getattr(train, "__name__", "study"),
            "question": question,
            "metric": metric,
            "baseline": next(iter(arms)) if baseline is None else baseline,
            "seeds": seeds if isinstance(seeds, int) else list(seeds),
            "seed_scheme": seed_scheme,
            "analysis": analysis,
            "stopping": {"rule": stopping} if isinstance(stopping, str) else dict(stopping),
        }
        protocol = validate(Protocol, tree, where="Study: ")
        protocol.check_arms(arms)
        jobs = {arm: _plain(arm, value) for arm, value in arms.items()}
        self._set(
            protocol, train, schedule(protocol, identity(train), {(): jobs}), {a: str(v) for a, v in arms.items()}
        )

    def _set(
        self, protocol: Protocol, train: TrainFunction, runs: tuple[RunSpec, ...], arms: Mapping[str, str]
    ) -> None:
        self.protocol = protocol
        self.plan = runs  # one for each arm, seed and grid point
        self.runs = tuple({run.key: run for run in runs}.values())  # an arm may not depend on what the grid varies
        self.arms = arms
        self.train = train

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Study:
        """A study file, with the built-in trainer or a training function of its own.

        Args:
            path: TOML.
            overrides: `key.path=value`, as with `--set`.

        Raises:
            SpecError: each fault of the file; no such function.
        """
        spec = load(Path(path), tuple(overrides))
        study = cls.__new__(cls)
        if isinstance(spec, OwnStudySpec):
            study._set_own(spec, Path(path).parent)
        else:
            train = builtin.train if spec.function is None else _function(spec.function, Path(path).parent, "function")
            known = "normlab.study.train.train" if spec.function is None else identity(train)
            study._set(spec, train, plan(spec, known), {name: str(arm) for name, arm in spec.arms.items()})
        return study

    def _set_own(self, spec: OwnStudySpec, folder: Path) -> None:
        train = _function(spec.train, folder, "train")
        function = identity(train)
        jobs = {point: {arm: _plain(arm, job) for arm, job in arms.items()} for point, arms in own_jobs(spec).items()}
        runs = schedule(spec, function, jobs)
        self._set(spec, train, runs, {arm: str(value) for arm, value in spec.arms.items()})

    def store(self, path: str | Path | None = None) -> Store:
        """Where the runs are kept, a directory or a URL: `runs/<name>` below the working directory unless named."""
        return Store(path if path is not None else Path("runs") / self.protocol.name)

    def run(
        self,
        *,
        store: str | Path | None = None,
        on: str | None = None,
        workers: int | None = None,
        threads: int | None = None,
        device: str = "auto",
        checkpoint_seconds: float = 10.0,
        progress: bool = True,
    ) -> Results:
        """Make the runs that are not in the store yet, and gather all.

        In processes that torchrun has started, all of them make each run together (DDP): the first one leads, keeps the
        store, and shows progress; the others follow, and gather what the store holds when all is done.

        Args:
            store: directory, or a URL that fsspec reaches (`s3://bucket/study`); `runs/<name>` unless given.
            on: "local" for processes of this machine, which is the default; "ray" for a Ray of our own; "auto",
                "host:port" or "ray://host:port" for a Ray cluster.
            workers: runs at once; as many as there is room for, unless given; 0 runs in this process.
            threads: torch threads of each run; `resources.cpus` unless given. On a CPU the same number gives the same
                bits.
            device: "cpu", "cuda", "cuda:1" or "mps"; "auto" is a GPU for a study with `resources.gpus`, where there
                is one, and else the CPU.
            checkpoint_seconds: time between checkpoints of a run.
            progress: show a bar (or, without a terminal, a line now and then) on standard error.

        Raises:
            StoreLocked: somebody else is running this study.
            UnknownName: the function does not return the study's metric: one run without it has failed, but where
                two are all there is, it is misspelt.
        """
        from normlab.study.processes.team import leading
        from normlab.study.processes.torchrun import follow
        from normlab.study.progress import display

        here = launched()
        if not here.is_first:
            follow()
            return self.results(store)
        carry_out = executor(on)
        takes = self.protocol.resources
        devices, workers = taken(here, takes.devices, workers, on)
        options = Options(
            threads=threads or takes.cpus,
            device=device,
            devices=devices,
            gpus=takes.gpus,
            memory=takes.memory,
            checkpoint_seconds=checkpoint_seconds,
        )
        place = self.store(store).open(create=True)
        with ExitStack() as stack:
            check = stack.enter_context(place.locked())
            stack.enter_context(leading(here.size))
            place.describe(definition(self.protocol, self.arms))
            status, results = survey(self.protocol, self.plan, place)
            for run in status.damaged:
                place.set_aside(run.key)
            elsewhere = place.absolute()  # the function may change the working directory
            agenda = Agenda(self.protocol, self.plan, results, elsewhere)
            waiting = deque(agenda.begin())
            self.rehearse([run for run in self.runs if run.key not in agenda.finished], devices)
            show = stack.enter_context(display(agenda.total, status, place, enabled=progress))
            events = stack.enter_context(closing(carry_out(self.train, waiting, elsewhere, options, workers=workers)))
            returned: list[Collection[str]] = [result.metrics for result in results.values() if result.status == "ok"]
            for event in (judged(event, self.protocol.metric, returned) for event in events):
                check()
                waiting.extend(agenda.after(event))
                show(event, agenda.total)
        return self.results(store)

    def rehearse(self, runs: Sequence[RunSpec], processes: int | None = None) -> None:
        """Raise now what would stop each of these runs: the built-in trainer sets up one run of each arm.

        Args:
            processes: of a run; `resources.devices` unless given.
        """
        if self.train is builtin.train:
            rehearse(((run.arm, run.job) for run in runs), processes or self.protocol.resources.devices)

    def results(self, store: str | Path | None = None) -> Results:
        """What the store holds of this study, finished or not; nothing where there is no store."""
        place = self.store(store).open(create=False)
        return Results.gather(self.protocol, self.plan, self.arms, place)

    def status(self, store: str | Path | None = None) -> Status:
        """Where the study stands; reads the store only."""
        return survey(self.protocol, self.plan, self.store(store).open(create=False))[0]


def _function(spec: str, folder: Path, kind: str) -> Any:
    """The training function that a study file names; a file's name is looked for beside the study file."""
    place, _, name = spec.rpartition(":")
    return load_object(f"{folder / place}:{name}" if place.endswith(".py") else spec, kind=kind)


def _plain(arm: str, value: Any) -> Any:
    """The value as JSON gives it back, so that the function sees the same whether or not it crossed a process."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise SpecError(
            f"arms.{arm}: {value!r} is not plain data ({error}); name what it stands for, as in 'batch' or "
            "{'norm': 'batch', 'lr': 0.1}, and build it in the training function"
        ) from None
