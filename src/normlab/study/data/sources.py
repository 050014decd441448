"""Tables of encoded images and labels: on the hub, or in local parquet files; both read by Hugging Face `datasets`."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from normlab.errors import DataError, Unavailable, UnknownName

READ_AT_ONCE = 1000
HUB_SECONDS = 10.0


class Table(Protocol):
    """One split: rows with columns, read in order."""

    @property
    def what(self) -> str:
        """Where it is from, for messages."""
        ...

    def columns(self, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """The values of these columns, row by row; an image as the bytes of its file.

        Raises:
            UnknownName: no such column.
            DataError: the files are damaged.
        """
        ...

    def named(self, row: int) -> str:
        """The image of this row, for messages."""
        ...

    def classes(self, label: str) -> int | None:
        """How many classes the table says it has, if it does."""
        ...


@dataclass(frozen=True)
class ReadTable:
    """One split as `datasets` reads it: a Dataset or an IterableDataset."""

    rows: Any
    what: str

    def columns(self, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """The values of these columns, row by row."""
        features = self.rows.features
        for name in names:
            if name not in features:
                raise UnknownName("column", name, features, where=f"{self.what}: ")
        try:
            with _quiet():
                for batch in _plain(self.rows.select_columns(list(names))).iter(READ_AT_ONCE):
                    yield from zip(*(_values(batch[name]) for name in names), strict=True)
        except Exception as error:  # pyarrow, datasets and fsspec each raise their own
            raise DataError(f"{self.what} cannot be read: {_line(error)}") from None

    def named(self, row: int) -> str:
        """Its number, counted from 0."""
        return f"{self.what}, image {row}"

    def classes(self, label: str) -> int | None:
        """The number of names that a ClassLabel has."""
        return getattr(self.rows.features.get(label), "num_classes", None)


def _plain(rows: Any) -> Any:
    """Images as the bytes they are stored as."""
    from datasets import Image

    for name, feature in rows.features.items():
        if isinstance(feature, Image):
            rows = rows.cast_column(name, Image(decode=False))
    return rows


def _values(column: Sequence[Any]) -> list[Any]:
    return [value["bytes"] if isinstance(value, dict) and "bytes" in value else value for value in column]


def parquet_tables(files: Mapping[str, Sequence[Path]]) -> dict[str, ReadTable]:
    """Local parquet files, by split.

    Raises:
        DataError: a file that is no parquet file, or files of a split that do not belong together.
    """
    datasets = _datasets()
    found: dict[str, ReadTable] = {}
    for split, paths in files.items():
        what = f"{paths[0]}" if len(paths) == 1 else f"{paths[0].parent}/{split}-*.parquet"
        for path in paths:
            _check_footer(path)
        try:
            names = [str(path) for path in paths]
            rows = datasets.load_dataset("parquet", data_files=names, split="train", streaming=True)
            found[split] = ReadTable(rows, what)
        except Exception as error:
            raise DataError(f"{what} cannot be read as parquet: {_line(error)}") from None
    return found


def _check_footer(path: Path) -> None:
    """A file that is cut off lacks its end, where a parquet file says what is in it."""
    from pyarrow import parquet

    try:
        parquet.read_metadata(path)
    except Exception as error:
        raise DataError(f"{path} is no parquet file, or damaged: {_line(error)}") from None


def hub_tables(
    repository: str, revision: str, *, config: str | None, splits: Mapping[str, str], alternatives: str
) -> dict[str, ReadTable]:
    """Splits of a dataset on the Hugging Face hub, downloaded into the hub's own cache.

    Args:
        splits: ours → its name there.

    Raises:
        DataError: no such split; the hub cannot be reached, and `alternatives` says what else would do.
    """
    datasets = _datasets()
    with _quiet():
        try:
            rows = {
                split: datasets.load_dataset(repository, config, revision=revision, split=name)
                for split, name in splits.items()
            }
        except ValueError as error:  # what is there is not what was asked for
            raise DataError(f"{repository} on the Hugging Face hub: {_line(error)}") from None
        except Exception as error:
            raise DataError(f"{repository} on the Hugging Face hub: {_line(error)}; {alternatives}") from None
    return {split: ReadTable(table, f"{repository}, {split}") for split, table in rows.items()}


def hub_revision(repository: str, revision: str, *, alternatives: str) -> str:
    """The commit that `revision`, a branch say, stands for. Asks the hub once and does not wait for it long.

    Raises:
        DataError: the hub cannot be reached, or has no such dataset.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return revision  # whoever says so has the dataset in the hub's cache
    _datasets()
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        return str(HfApi().dataset_info(repository, revision=revision, timeout=HUB_SECONDS).sha)
    except RevisionNotFoundError:
        raise DataError(f"{repository}: the Hugging Face hub has no revision {revision!r} of it") from None
    except RepositoryNotFoundError:
        raise DataError(
            f"{repository}: the Hugging Face hub has no such dataset, or wants a login for it (`hf auth login`)"
        ) from None
    except Exception as error:
        reason = _line(error) or type(error).__name__
        raise DataError(f"{repository}: the Hugging Face hub cannot be reached ({reason}); {alternatives}") from None


@contextlib.contextmanager
def _quiet() -> Generator[None, None, None]:
    """Without log lines of failures and retries, which say in six lines what the error says in one."""
    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise Unavailable("reading datasets needs Hugging Face datasets: pip install 'normlab[data]'") from None
    return datasets


def _line(error: BaseException) -> str:
    """The first line of a message, or the name of an error without one."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def parquet_files(folder: Path, starts: Mapping[str, str]) -> dict[str, list[Path]]:
    """Files of each split, in order: `train-00000-of-00005.parquet`, `train.parquet`, in the folder or below it.

    Args:
        starts: split → how the names of its files start.
    """
    found = {split: sorted(folder.rglob(f"{start}*.parquet")) for split, start in starts.items()}
    for split, files in found.items():
        if not files:
            raise DataError(f"{folder}: no {starts[split]}-*.parquet in it")
    return found


def chain_files(files: Mapping[str, Sequence[Path]]) -> list[Path]:
    """All files, split by split."""
    return [path for paths in files.values() for path in paths]


def signature(files: Sequence[Path]) -> list[tuple[str, int, int]]:
    """What tells these files from others without reading them: name, size and time of change."""
    return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
