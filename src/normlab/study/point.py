"""A point of the study's grid."""

from __future__ import annotations

import json
from typing import Any

Point = tuple[tuple[str, Any], ...]
"""Keys of the grid with their values, lists as tuples, so that runs can be looked up by it: `(("train.lr", 0.1),)`."""


def as_table(point: Point) -> dict[str, Any]:
    """`{"train.lr": 0.1}`, with lists again where the study file has them."""
    return {key: json.loads(json.dumps(value)) for key, value in point}
