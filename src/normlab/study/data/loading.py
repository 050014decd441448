"""From `[data]` of a study file to examples."""

from __future__ import annotations

import functools
from pathlib import Path

from normlab.seeding import Streams
from normlab.study.data.base import DATASETS, Dataset
from normlab.study.data.parts import mislabel, restrict
from normlab.study.data.places import cache_dir, data_dir
from normlab.study.job import DataSpec


def load(spec: DataSpec) -> Dataset:
    """The dataset, split, as a run wants it; kept in memory, because a worker trains many runs on it.

    Raises:
        SpecError: no such dataset, or it cannot be split as asked.
        DataError: files that are damaged, or not what they should be; a hub that cannot be reached.
        Unavailable: a package is missing.
    """
    return _load(spec, data_dir(), cache_dir())  # pyright: ignore[reportArgumentType]  # frozen models can be hashed


@functools.lru_cache(maxsize=2)
def _load(spec: DataSpec, _data: Path | None, _cache: Path) -> Dataset:
    streams = Streams(spec.split_seed)
    data = DATASETS.create(spec.name, rng=streams.numpy("split"))
    if spec.limit is not None:
        data = restrict(data, spec.limit, streams.numpy("limit"))
    return mislabel(data, spec.label_noise, streams.numpy("label_noise"))


def canonical_data(name: str) -> str:
    """The dataset's name with its defaults written out.

    Raises:
        SpecError: no such dataset, or it cannot take its arguments.
    """
    return str(DATASETS.parse(name, given=("rng",)))


def forget() -> None:
    """Let go of the datasets that `load` keeps."""
    _load.cache_clear()
