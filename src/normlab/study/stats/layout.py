"""How a table is laid out: which column is what, and so which cell is the result of which arm and seed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from normlab.errors import DataError, unknown_text
from normlab.study.stats.csvfile import CsvFile

ARM_COLUMNS = ("arm", "recipe", "method", "variant", "treatment", "condition", "config", "group", "model", "name")
SEED_COLUMNS = ("seed", "run", "trial", "replicate", "repeat", "fold", "id")
METRIC_COLUMNS = ("test_accuracy", "test_acc", "accuracy", "acc", "score", "value", "result", "test_loss", "loss")
STATUS_COLUMN = "status"  # of normlab's own results.csv
_SEED_HEADER = re.compile(r"(seed|run|trial|fold)?[ _-]?\d+", re.IGNORECASE)


@dataclass(frozen=True)
class Cell:
    """The text of one result, of which arm and seed it is, and where in the file it stands."""

    arm: str
    seed: str
    text: str
    line: int
    column: str
    status: str = ""


@dataclass(frozen=True)
class Columns:
    """Which columns the user named; None = guess."""

    arm: str | None = None
    seed: str | None = None
    metric: str | None = None


def cells(file: CsvFile, named: Columns) -> tuple[str, list[Cell]]:
    """The name of the metric and every result.

    Raises:
        DataError: a named column that is not there, or a layout that can be read in more than one way.
    """
    arm = _named(file, named.arm, "--arm-column") or _guess(file, ARM_COLUMNS, numbers=False)
    seed = _named(file, named.seed, "--seed-column") or _guess(file, SEED_COLUMNS)
    if arm and seed:
        return _long(file, arm, seed, _metric_column(file, named.metric, (arm, seed)))
    if seed and not _metric_in(file, named.metric):
        return named.metric or "score", _wide_by_seed(file, seed)
    if arm and not _metric_in(file, named.metric):
        return named.metric or "score", _wide_by_arm(file, arm)
    raise _unclear(file, f"no column names the {'arms' if seed else 'seeds' if arm else 'arms or the seeds'}")


def is_number(text: str) -> bool:
    """Whether a cell can be read as a result; a % sign behind it does no harm."""
    try:
        float(text.removesuffix("%"))
    except ValueError:
        return False
    return True


def _named(file: CsvFile, column: str | None, option: str) -> str | None:
    if column is not None and column not in file.columns:
        raise DataError(f"{file.name}: {option}: {unknown_text('column', column, file.columns)}")
    return column


def _guess(file: CsvFile, names: Iterable[str], *, numbers: bool = True) -> str | None:
    """The first column that bears one of the names; without `numbers` one that holds words (`group` may be an arm)."""
    written = {_plain(c): c for c in file.columns if numbers or not all(map(is_number, file.column(c)))}
    return next((written[n] for n in names if n in written), None)


def _plain(name: str) -> str:
    return re.sub(r"[\s\-]+", "_", name.lower())


def _metric_in(file: CsvFile, metric: str | None) -> bool:
    """A column that is clearly a metric: then rows are runs, and the others are no arms."""
    return metric in file.columns or _guess(file, METRIC_COLUMNS) is not None


def _metric_column(file: CsvFile, metric: str | None, taken: tuple[str, str]) -> str:
    if metric in taken:
        raise DataError(f"{file.name}: --metric: column {metric!r} names the arms or seeds; name another one")
    found = _named(file, metric, "--metric") or _guess(file, METRIC_COLUMNS)
    if found:
        return found
    rest = [c for c in file.columns if c not in taken]
    numeric = [c for c in rest if any(map(is_number, file.column(c)))]
    if len(numeric) == 1 or len(rest) == 1:
        return (numeric or rest)[0]
    choices = ", ".join(numeric or rest) or "none is left"
    raise DataError(f"{file.name}: which column is the metric? Say --metric COLUMN, one of: {choices}.")


def _unclear(file: CsvFile, problem: str) -> DataError:
    return DataError(
        f"{file.name}: {problem}. Columns: {', '.join(file.columns)}. With one row per run say --arm-column and "
        "--seed-column; with one row per seed and a column per arm say --seed-column; with one row per arm say "
        "--arm-column and call the other columns seed1, seed2, ..."
    )


def _long(file: CsvFile, arm: str, seed: str, metric: str) -> tuple[str, list[Cell]]:
    """A row per run; normlab's own files have the metric's name in a column and say which runs failed."""
    name = set(file.column("metric")) if "metric" in file.columns and metric == "value" else {metric}
    if len(name) > 1:
        raise DataError(f"{file.name}: column 'metric' names several, {', '.join(sorted(name))}; keep the rows of one")
    status = file.column(STATUS_COLUMN) if STATUS_COLUMN in file.columns else [""] * len(file.lines)
    columns = file.column(arm), file.column(seed), file.column(metric), status
    rows = zip(file.lines, *columns, strict=True)
    return name.pop(), [Cell(a, s, text, line.number, metric, status) for line, a, s, text, status in rows]


def _wide_by_seed(file: CsvFile, seed: str) -> list[Cell]:
    arms = [c for c in file.columns if c != seed]
    for column in arms:
        if not any(map(is_number, file.column(column))):
            raise _unclear(file, f"no column names the arms, and {column!r} holds no number, so it is no arm")
    seeds = file.column(seed)
    return [
        Cell(arm, s, text, line.number, arm)
        for arm in arms
        for line, s, text in zip(file.lines, seeds, file.column(arm), strict=True)
    ]


def _wide_by_arm(file: CsvFile, arm: str) -> list[Cell]:
    seeds = [c for c in file.columns if c != arm]
    for column in seeds:
        if not _SEED_HEADER.fullmatch(column):
            raise _unclear(file, f"no column names the seeds, and {column!r} is not called like one")
    arms = file.column(arm)
    return [
        Cell(a, seed, text, line.number, seed)
        for seed in seeds
        for line, a, text in zip(file.lines, arms, file.column(seed), strict=True)
    ]
