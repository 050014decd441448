"""The first process's side of a run that several carry out: who the others are, and what becomes of a failure."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager

import torch
import torch.distributed as dist

from normlab.errors import SpecError
from normlab.study.processes.helper import Task, device_of
from normlab.study.processes.others import Followers, Helpers, Others
from normlab.study.processes.round import Report, Round

_kept: list[Others] = []  # those of the last run, which stay for the next: starting a process takes seconds


@contextmanager
def leading(size: int) -> Generator[None, None, None]:
    """Around all runs of a study, in the first process: others that are there stay until the end, and no longer.

    Args:
        size: of the processes that torchrun has started.
    """
    if size > 1:
        _refuse_initialized()
        _kept.append(Followers())
    try:
        yield
    finally:
        while _kept:
            _kept.pop().dismiss()


def _refuse_initialized() -> None:
    if dist.is_initialized():
        raise SpecError("torch.distributed is initialized already; leave that to the study, which shares its batches")


def _current(size: int) -> Others:
    if _kept and (_kept[0].size != size or _kept[0].lost()):
        _kept.pop().dismiss()
    if not _kept:
        _kept.append(Helpers(size))
    return _kept[0]


@contextmanager
def shared(task: Task) -> Generator[Round, None, None]:
    """Carry out a run with others, who call the same function; inside, torch.distributed is ready to use.

    The others are those of torchrun, or else are started here and stay for the next run, unless this one fails.

    Raises:
        ProcessFailed: another process raised or ended; its traceback is shown above ours.
        ProcessLost: one of torchrun's ended.
    """
    _refuse_initialized()
    others = _current(task.options.devices)
    device = task.options.device
    try:
        with ExitStack() as stack:
            round_ = others.begin(task)
            stack.callback(round_.part)
            round_.arrive()
            round_.await_all(lambda: _check(others))
            if device.startswith("cuda"):
                stack.enter_context(torch.cuda.device(device_of(device, 0)))
            with _explained(round_, others):
                stack.enter_context(round_.joined(device, others.lost))
            with _explained(round_, others):
                yield round_
                round_.await_reports(lambda: _check(others))
            round_.part()
    except BaseException:
        others.failed()
        raise


def _check(others: Others) -> None:
    if text := others.lost():
        raise others.gone(text)


@contextmanager
def _explained(round_: Round, others: Others) -> Generator[None, None, None]:
    """An exception inside is replaced by what went wrong first."""
    try:
        yield
    except (Exception, SystemExit) as error:
        round_.failed(Report.of(error))
        cause = _cause(error, round_, others)
        if cause is error:
            raise
        raise cause  # noqa: B904 - it shows a traceback of its own


def _cause(error: BaseException, round_: Round, others: Others) -> BaseException:
    try:
        silent = round_.silent(others.lost)
    except KeyboardInterrupt:  # torchrun ends all where one has ended
        return others.gone(f"one of {round_.world.size} processes is gone, so that torchrun ends the others")
    if silent:
        return others.gone(others.lost() or f"rank {silent[0]} of {round_.world.size} processes is gone")
    first = round_.cause()
    report = round_.report(first)
    if first == 0 or report is None or report.error == Report.of(error).error:
        return error
    return round_.failure(first, report)
