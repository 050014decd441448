"""Anybody's table of results as `Scores`, or an error that says where it is wrong and what would do."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from normlab.errors import DataError
from normlab.study.stats.csvfile import CsvFile, read
from normlab.study.stats.layout import Cell, Columns, cells
from normlab.study.stats.result import Scores

_LARGEST = 1e100  # squares of differences stay finite
_MISSING = ("", "na", "n/a", "none", "null")


def read_csv(
    path: str | Path,
    *,
    metric: str | None = None,
    arm_column: str | None = None,
    seed_column: str | None = None,
    better: Literal["higher", "lower"] = "higher",
) -> Scores:
    """Read results from a CSV file: one row per run, or one row per seed, or one row per arm.

    Long files have a column for the arm, one for the seed and one for the metric, found by name or given. Wide ones
    have a seed column and otherwise one column per arm, or an arm column and otherwise one column per seed (`seed1`,
    `2`). An empty cell is a missing run; `nan` and `inf` are runs that diverged, counted as the worst finite value
    of the table. The unit is % where the metric is called an accuracy or % and values exceed 1.

    Args:
        path: UTF-8, fields separated by comma, semicolon or tab; `-` is standard input.
        metric: column of the metric; in a wide file, its name.
        arm_column: column that names the arms.
        seed_column: column that names the seeds.
        better: whether high or low values are good, which decides what the worst one is.

    Raises:
        DataError: whatever is wrong with the file, with its line, column, value, and what would do.
    """
    file = read(path)
    name, found = cells(file, Columns(arm_column, seed_column, metric))
    _check(file, found)
    return _scores(file, found, name, better)


def _scores(file: CsvFile, found: Sequence[Cell], metric: str, better: Literal["higher", "lower"]) -> Scores:
    arms, seeds = _places(c.arm for c in found), _places(c.seed for c in found)
    values = np.full((len(arms), len(seeds)), math.nan)
    for cell in found:
        values[arms[cell.arm], seeds[cell.seed]] = _number(file, cell)
    _check_unit(file, found)
    finite = values[np.isfinite(values)]
    if not len(finite):
        raise DataError(f"{file.name}: column {found[0].column!r} holds no finite number at all")
    diverged = frozenset((c.arm, c.seed) for c in found if c.status == "diverged" or _not_finite(c))
    worst = float(finite.min() if better == "higher" else finite.max())
    for cell in filter(_not_finite, found):
        values[arms[cell.arm], seeds[cell.seed]] = worst
    return Scores(
        metric=metric,
        arms=tuple(arms),
        seeds=tuple(seeds),
        values=values,
        unit="%" if ("acc" in metric.lower() or "%" in metric) and finite.max() > 1 else "",
        diverged=diverged,
        failed=frozenset((c.arm, c.seed) for c in found if c.status == "failed"),
        diverged_as=f"the worst value in the table, {worst:g}" if any(map(_not_finite, found)) else "",
    )


def _places(labels: Iterable[str]) -> dict[str, int]:
    """Each label once, in the order of appearance, with its place."""
    return {label: k for k, label in enumerate(dict.fromkeys(labels))}


def _number(file: CsvFile, cell: Cell) -> float:
    """The result; NaN where it is missing."""
    if cell.text.lower() in _MISSING:
        return math.nan
    try:
        value = float(cell.text.removesuffix("%"))
    except ValueError:
        comma = re.fullmatch(r"[+-]?\d+,\d+", cell.text)
        what = "write decimals with a point" if comma else "leave it empty where the run is missing"
        raise DataError(
            f"{file.name}, line {cell.line}, column {cell.column!r}: {cell.text!r} is not a number; {what}, "
            "write nan where it diverged"
        ) from None
    if math.isfinite(value) and abs(value) > _LARGEST:
        raise DataError(
            f"{file.name}, line {cell.line}, column {cell.column!r}: {cell.text} is too large to reckon with; "
            "write nan where the run diverged"
        )
    return value


def _check_unit(file: CsvFile, found: Sequence[Cell]) -> None:
    """90 % in one row and 0.9 in another would differ by 89.1."""
    percent = next((cell for cell in found if cell.text.endswith("%")), None)
    share = next((c for c in found if not c.text.endswith("%") and abs(_number(file, c)) <= 1), None)
    if percent is not None and share is not None:
        raise DataError(
            f"{file.name}, line {share.line}, column {share.column!r}: {share.text!r}, while {percent.text!r} stands "
            f"in line {percent.line}; write shares or %, not both"
        )


def _not_finite(cell: Cell) -> bool:
    text = cell.text.lower()
    return text not in _MISSING and not math.isfinite(float(text.removesuffix("%")))


def _check(file: CsvFile, found: Sequence[Cell]) -> None:
    """Each arm and seed named, once together, two or more of both, and at least one seed in common."""
    seen: dict[tuple[str, str], Cell] = {}
    for cell in found:
        if not cell.arm or not cell.seed:
            raise DataError(f"{file.name}, line {cell.line}: no {'seed' if cell.arm else 'arm'} is named; fill it in")
        first = seen.setdefault((cell.arm, cell.seed), cell)
        if first is not cell:
            raise _repeated(file, first, cell)
    columns = f"Columns: {', '.join(file.columns)}; --arm-column and --seed-column say which is which."
    arms, seeds = Counter(c.arm for c in found), Counter(c.seed for c in found)
    if len(arms) < 2:
        raise DataError(f"{file.name}: only one arm, {next(iter(arms))!r}; two are the least to compare. {columns}")
    if len(seeds) < 2:
        raise DataError(
            f"{file.name}: only one seed, {next(iter(seeds))!r}; two are the least, five sensible. {columns}"
        )
    if max(seeds.values()) == 1:
        raise DataError(f"{file.name}: no two arms have a seed in common, so nothing is paired. {columns}")


def _repeated(file: CsvFile, first: Cell, second: Cell) -> DataError:
    where = f"lines {first.line} and {second.line}" if first.line != second.line else f"line {first.line}, twice,"
    return DataError(
        f"{file.name}: {where} both hold arm {first.arm!r} with seed {first.seed!r}; keep one. If another column tells "
        f"them apart, name it with --arm-column or keep the rows of one value. Columns: {', '.join(file.columns)}."
    )
