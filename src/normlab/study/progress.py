"""What a running study shows: a bar where there is a terminal, a line now and then where there is none."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from normlab.study.executors.events import Event
from normlab.study.point import as_table
from normlab.study.store import Store

if TYPE_CHECKING:
    from rich.console import Console

    from normlab.study.status import Status

LINE_EVERY = 30.0  # seconds between lines without a terminal


@dataclass
class Tally:
    """Counts behind the display."""

    total: int
    done: int
    failed: int = 0
    running: dict[str, float] = field(default_factory=dict[str, float])  # key → share done when it started here
    worked: float = 0.0  # runs' worth of work since the start, shares of running ones included
    started: float = field(default_factory=time.monotonic)

    def update(self, event: Event, store: Store) -> None:
        """Take in one event."""
        if event.kind == "started" and event.run is not None:
            self.running[event.run.key] = store.progress(event.run.key)
        if event.kind == "lost" and event.run is not None:
            self.running.pop(event.run.key, None)
        if event.kind == "ended" and event.run is not None and event.outcome is not None:
            self.worked += 1 - self.running.pop(event.run.key, 0.0)
            self.done += 1
            self.failed += event.outcome.status == "failed"

    def left(self, store: Store) -> float | None:
        """Seconds left at the pace so far, None before there is one."""
        shares = {key: store.progress(key) for key in self.running}
        worked = self.worked + sum(max(0.0, share - self.running[key]) for key, share in shares.items())
        elapsed = time.monotonic() - self.started
        if worked < 0.2 or elapsed < 2:
            return None
        remaining = self.total - self.done - sum(shares.values())
        return remaining * elapsed / worked

    def text(self, store: Store) -> str:
        """`12/60 done · 2 running · 1 failed · 2:31 left`."""
        parts = [f"{self.done}/{self.total} done", f"{len(self.running)} running"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        left = self.left(store)
        parts.append("time left: measuring" if left is None else f"{clock(left)} left")
        return " · ".join(parts)


def clock(seconds: float) -> str:
    """`2:31` or `1:02:31`; `6.5 days`, where a clock says little."""
    if seconds >= 48 * 3600:
        return f"{seconds / (24 * 3600):,.1f} days"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@contextmanager
def display(
    total: int, status: Status, store: Store, *, enabled: bool
) -> Generator[Callable[[Event, int], None], None, None]:
    """Show events on standard error while inside; yields the function that takes them.

    Args:
        total: runs of the study, as far as one can tell: a stopping rule takes some away, so each event tells it anew.
    """
    from rich.console import Console

    tally = Tally(total, len(status.finished))
    console = Console(stderr=True, quiet=not enabled)
    for run in status.damaged:
        console.print(
            f"result of {run.arm}, seed {run.seed} is damaged: set aside, the run is made again", style="yellow"
        )
    if not enabled or tally.done == tally.total:
        yield _nothing
    elif console.is_terminal:
        with _bar(tally, store, console) as show:
            yield show
    else:
        yield _lines(tally, store)


@contextmanager
def _bar(tally: Tally, store: Store, console: Console) -> Generator[Callable[[Event, int], None], None, None]:
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    columns = SpinnerColumn(), BarColumn(), TextColumn("{task.description}")
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(tally.text(store), total=tally.total, completed=tally.done)

        def show(event: Event, total: int) -> None:
            tally.total = total
            tally.update(event, store)
            if text := _complaint(event):
                bar.console.print(text, style="yellow", markup=False)
            shares = sum(store.progress(key) for key in tally.running)
            bar.update(task, total=total, completed=tally.done + shares, description=tally.text(store))

        yield show


def _lines(tally: Tally, store: Store) -> Callable[[Event, int], None]:
    last = time.monotonic()

    def show(event: Event, total: int) -> None:
        nonlocal last
        tally.total = total
        tally.update(event, store)
        if text := _complaint(event):
            print(text, file=sys.stderr, flush=True)
        if time.monotonic() - last > LINE_EVERY or tally.done == tally.total:
            last = time.monotonic()
            print(tally.text(store), file=sys.stderr, flush=True)

    return show


def _nothing(_: Event, __: int) -> None:
    pass


def _complaint(event: Event) -> str:
    """What people should know of an event: `small, seed 3, train.lr 0.1: failed ValueError: ...`; "" for most."""
    text = event.note
    if event.outcome is not None and event.outcome.status != "ok":
        text = f"{event.outcome.status} {event.outcome.error}".rstrip()
    if event.run is None or not text:
        return text
    point = "".join(f", {key} {value}" for key, value in as_table(event.run.point).items())
    return f"{event.run.arm}, seed {event.run.seed}{point}: {text}"
