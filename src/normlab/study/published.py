"""`[published]` of a study file: numbers that a source gives, and the same of ours beside them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import Field

from normlab.errors import SpecError, UnknownName
from normlab.study.job import Strict
from normlab.study.point import Point, as_table
from normlab.study.stats.published import Published, Reproductions, reproduce
from normlab.study.stats.result import Scores


class PublishedSpec(Strict):
    """`[published]`: numbers to compare the measured ones with.

    Attributes:
        source: where they stand, "Davis and Frank, table 1(a)".
        seeds: how many runs each mean and SD is of; None where the source does not say.
        values: grid point → arm → mean, or mean and SD (n - 1), in the unit of the metric; a point is written
            `"train.lr=0.1"`, with several keys in the order of `[grid]`, joined by ", ", and "" where there is no grid.
        changed: what was set otherwise than in the study file, which the numbers belong to; filled in when it is read.
    """

    source: str
    seeds: Annotated[int, Field(ge=2)] | None = None
    values: dict[str, dict[str, Annotated[list[float], Field(min_length=1, max_length=2)]]]
    changed: list[str] = Field(default_factory=list)

    def check(self, arms: Iterable[str], grid: Iterable[str]) -> None:
        """Raise SpecError where a number belongs to no arm, or to what cannot be a point of the grid."""
        pattern = ", ".join(f"{re.escape(key)}=.+" for key in grid)
        for point, values in self.values.items():
            negative = [arm for arm, (_, *spread) in values.items() if min(spread, default=0) < 0]
            if negative:
                raise SpecError(f"published.values.{point!r}.{negative[0]}: an SD below 0; write [mean, SD]")
            if not re.fullmatch(pattern, point):
                wanted = repr(", ".join(f"{key}=VALUE" for key in grid)) if pattern else 'no grid, so "" is the point'
                raise SpecError(f"published.values: {point!r} should read {wanted}")
            for arm in values:
                if arm not in arms:
                    raise UnknownName("arm", arm, arms, where=f"published.values.{point!r}: ")


def as_text(point: Point) -> str:
    """A grid point as `[published]` writes it: `train.lr=0.1`, several keys joined by ", "."""
    return ", ".join(f"{key}={value}" for key, value in as_table(point).items())


def reproductions(
    source: PublishedSpec | None, scores: Scores, point: Point, points: Sequence[Point], confidence: float
) -> Reproductions | None:
    """The published numbers of one grid point beside ours; None where the study file has no `[published]`.

    Args:
        points: all of the study's, to name the published ones that are not among them.
    """
    if source is None:
        return None
    values = {
        arm: Published(mean, *spread, n=source.seeds)
        for arm, (mean, *spread) in source.values.get(as_text(point), {}).items()
    }
    known = {as_text(p) for p in points}
    return Reproductions(
        source=source.source,
        confidence=confidence,
        rows=tuple(reproduce(scores, arm, values[arm], confidence) for arm in scores.arms if arm in values),
        changed=tuple(source.changed),
        elsewhere=tuple(p for p in source.values if p not in known),
    )
