"""The grid of a study, and a point of it."""

from __future__ import annotations

import json
from typing import Annotated, Any, cast

from pydantic import AfterValidator

from normlab.study.job import JsonValue

Point = tuple[tuple[str, Any], ...]
"""Keys of the grid with their values, lists as tuples, so that runs can be looked up by it: `(("train.lr", 0.1),)`."""


def as_table(point: Point) -> dict[str, Any]:
    """`{"train.lr": 0.1}`, with lists again where the study file has them."""
    return {key: json.loads(json.dumps(value)) for key, value in point}


def _each_once(grid: dict[str, list[JsonValue]]) -> dict[str, list[JsonValue]]:
    found = {key: [_frozen(value) for value in values] for key, values in grid.items()}
    for key, values in found.items():
        if len(set(values)) < max(1, len(values)):
            raise ValueError(f"{key!r} should list one value or more, each once")
    return found


def _frozen(value: JsonValue) -> JsonValue:
    """Lists as tuples: the values make a point of the grid, by which runs are looked up."""
    if isinstance(value, dict):
        raise ValueError("a table cannot be varied; name its keys, as 'data.limit'")
    return tuple(map(_frozen, cast(list[JsonValue], value))) if isinstance(value, list) else value


Grid = Annotated[dict[str, list[JsonValue]], AfterValidator(_each_once)]
"""`[grid]`: key → values; the comparison is repeated at each combination."""
