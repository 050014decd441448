"""A landscape as plain data, for JSON."""

from __future__ import annotations

import math
from dataclasses import asdict, fields, is_dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from normlab.landscape.result import LandscapeReport, Track


def plain(report: LandscapeReport) -> dict[str, Any]:
    """Everything that was measured; numbers that are not finite are None."""
    s = report.settings
    return {
        "subject": report.subject,
        "data": report.data,
        "settings": {**asdict(s), "parts": list(s.parts), "at": list(s.at), "step_sizes": list(s.step_sizes)},
        "factors": {name: _plain(factor) for name, factor in report.factors().items()},
        "factors_at_equal_loss": {name: _plain(factor) for name, factor in report.factors_at_equal_loss().items()},
        "given": _track(report.given),
        "other": None if report.other is None else _track(report.other),
        "notes": list(report.notes),
        "seconds": round(report.seconds, 3),
    }


def _track(track: Track) -> dict[str, Any]:
    found = {part.name: _plain(getattr(track, part.name)) for part in fields(track)}
    found["ablation"] = [{**_plain(curve), "area": curve.area} for curve in track.ablation]
    found["reliance"] = [{**_plain(one), "mean": one.mean, "max": one.max} for one in track.reliance]
    return found


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {part.name: _plain(getattr(value, part.name)) for part in fields(value)}
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
