"""The numbers of a report for other programs: CSV of the scores, JSON of the statistics."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np

from normlab.study.report.document import Document
from normlab.study.stats.result import Scores

HEADER = ("panel", "arm", "seed", "metric", "value", "status")


def as_csv(document: Document) -> str:
    """One line per panel, arm and seed; `value` is empty where there is none, and reads back to the same float."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEADER)
    for panel in document.panels:
        c = panel.comparisons
        writer.writerows([c.title, *line] for line in _lines(c.scores))
    return out.getvalue()


def _lines(s: Scores) -> Iterator[tuple[str, ...]]:
    for arm, values in zip(s.arms, s.values.tolist(), strict=True):
        for seed, value in zip(s.seeds, values, strict=True):
            text = "" if math.isnan(value) else repr(value)
            yield arm, seed, s.metric, text, _status(s, arm, seed, value)


def _status(s: Scores, arm: str, seed: str, value: float) -> str:
    if (arm, seed) in s.failed:
        return "failed"
    if (arm, seed) in s.diverged:
        return "diverged"
    if (arm, seed) in s.unused:
        return "unused"
    return "missing" if math.isnan(value) else "ok"


def as_json(document: Document) -> str:
    """Everything but the curves and the results per test example; NaN and infinities are null."""
    fields = {f.name: getattr(document, f.name) for f in dataclasses.fields(document) if f.name != "panels"}
    panels = [{**_plain(p.comparisons), "published": _plain(p.published)} for p in document.panels]
    return json.dumps({**_plain(fields), "panels": panels}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """The value in the types that JSON has; sets are sorted, so that equal reports are equal texts."""
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.name != "correct"}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in cast(Mapping[str, Any], value).items()}
    if isinstance(value, frozenset):
        return _plain(sorted(cast(frozenset[Any], value)))
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in cast(list[Any], value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value
