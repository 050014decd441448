"""Where the rows of probes go: files, or the writer of somebody's experiment tracker."""

from __future__ import annotations

import csv
import json
import logging
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from normlab.errors import SpecError, came


@runtime_checkable
class Logger(Protocol):
    """Takes the values of one step. What it raises becomes a warning, once, and training goes on."""

    def log(self, values: dict[str, float], step: int, /) -> Any:
        """Keep them; keys are `norm/<module>/<probe>`."""
        ...


class JSONLines:
    """A line of JSON for each step: `{"step": 10, "norm/bn1/stable_rank": 7.3}`.

    Lines are added to a file that is there. JSON has no NaN and no infinity: they are the strings "nan", "inf" and
    "-inf", of which Python's `float` makes the numbers.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = _writable(path)

    def log(self, values: dict[str, float], step: int) -> None:
        """Add a line."""
        shown = {key: value if math.isfinite(value) else str(value) for key, value in values.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **shown}, allow_nan=False, ensure_ascii=False) + "\n")


class CSV:
    """A line for each value: step, key, value. Lines are added to a file that is there.

    Raises:
        SpecError: that file begins with another line than `step,key,value`.
    """

    HEADER = ("step", "key", "value")

    def __init__(self, path: str | Path) -> None:
        self.path = _writable(path)
        if self._exists():
            with self.path.open(newline="", encoding="utf-8") as file:
                first = file.readline().strip()
            if first != ",".join(self.HEADER):
                raise SpecError(f"{self.path} is there and begins with {first[:60]!r}, not step,key,value: use another")

    def log(self, values: dict[str, float], step: int) -> None:
        """Add the lines."""
        lines: list[Sequence[Any]] = [] if self._exists() else [self.HEADER]
        lines += [(step, key, value) for key, value in values.items()]
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(lines)

    def _exists(self) -> bool:
        return self.path.exists() and self.path.stat().st_size > 0


class TensorBoard:
    """Scalars of a `torch.utils.tensorboard.SummaryWriter`, or any writer with its `add_scalar`.

    Raises:
        SpecError: it has no such method.
    """

    def __init__(self, writer: Any) -> None:
        _check_methods(self, writer, "add_scalar")
        self.writer = writer

    def log(self, values: dict[str, float], step: int) -> None:
        """Add the scalars."""
        for key, value in values.items():
            self.writer.add_scalar(key, value, step)


class WandB:
    """Metrics of a W&B run, with `norm/step` as their axis: the run's own step stays the user's.

    Raises:
        SpecError: it has no `define_metric` and `log`.
    """

    def __init__(self, run: Any) -> None:
        _check_methods(self, run, "define_metric", "log")
        self.run = run
        run.define_metric("norm/*", step_metric="norm/step")

    def log(self, values: dict[str, float], step: int) -> None:
        """Log the metrics."""
        self.run.log({**values, "norm/step": step})


class MLflow:
    """Metrics of the active MLflow run: `MLflow(mlflow)`, or any object with its `log_metrics`.

    Raises:
        SpecError: it has no such method.
    """

    def __init__(self, mlflow: Any) -> None:
        _check_methods(self, mlflow, "log_metrics")
        self.mlflow = mlflow

    def log(self, values: dict[str, float], step: int) -> None:
        """Log the metrics."""
        self.mlflow.log_metrics(values, step=step)


Log = str | Path | Logger | Sequence[str | Path | Logger]


def loggers(log: Log | None) -> list[Logger]:
    """A logger for each file or object; a path ends in .jsonl or .csv, and of several processes the first writes it.

    Raises:
        SpecError: another ending, no such folder, an object that is no `Logger`.
    """
    if log is None:
        return []
    several = log if isinstance(log, (list, tuple)) else [log]
    first = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
    found: list[Logger] = []
    for one in several:
        logger = _file(one) if isinstance(one, (str, Path)) else _logger(one)
        if first or not isinstance(one, (str, Path)):
            found.append(logger)
    return found


class Logs:
    """Several loggers, of which one that raises ends no training: it warns, once."""

    def __init__(self, loggers: Sequence[Logger]) -> None:
        self.loggers = loggers
        self._failed: set[int] = set()

    def log(self, values: dict[str, float], step: int) -> None:
        """Hand each of them a copy of the values."""
        for logger in self.loggers:
            try:
                logger.log(dict(values), step)
            except Exception as error:
                if id(logger) not in self._failed:
                    self._failed.add(id(logger))
                    warnings.warn(
                        f"{type(logger).__name__} failed at step {step}: {type(error).__name__}: {error}. Training "
                        "goes on, and p.rows has all values; further failures of it are not told",
                        stacklevel=2,
                    )


def _file(path: str | Path) -> JSONLines | CSV:
    kinds = {".jsonl": JSONLines, ".csv": CSV}
    suffix = Path(path).suffix.lower()
    if suffix not in kinds:
        raise SpecError(f"log={str(path)!r} should end in .jsonl or .csv")
    return kinds[suffix](path)


def _logger(one: Any) -> Logger:
    wrap = next((w for method, w in _WRAPS.items() if hasattr(one, method)), None)
    if wrap is None and isinstance(one, Logger) and not isinstance(one, (type, nn.Module, logging.Logger)):
        return one
    hint = (
        f"; wrap it: normlab.probes.{wrap}" if wrap else ", such as 'probes.jsonl' or an object with log(values, step)"
    )
    raise SpecError(f"log takes files and loggers, got {came(one)}{hint}")


_WRAPS = {"add_scalar": "TensorBoard(writer)", "define_metric": "WandB(run)", "log_metrics": "MLflow(mlflow)"}
"""By a method that tells whose object it is."""


def _check_methods(wrapper: object, held: object, *names: str) -> None:
    lacking = [name for name in names if not callable(getattr(held, name, None))]
    if lacking:
        raise SpecError(f"{type(wrapper).__name__} takes an object with {' and '.join(names)}(...); got {came(held)}")


def _writable(path: str | Path) -> Path:
    path = Path(path)
    if not path.parent.is_dir():
        raise SpecError(f"{path} cannot be written: there is no folder {path.parent}")
    return path
