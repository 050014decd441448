"""A delimited text file as lines of fields, each with its number in the file."""

from __future__ import annotations

import csv
import io
import sys
from dataclasses import dataclass
from pathlib import Path

from normlab.errors import DataError

_DELIMITERS = ",;\t"


@dataclass(frozen=True)
class Line:
    """One record: where it ends in the file, counted from 1, and its fields without outer blanks."""

    number: int
    fields: tuple[str, ...]


@dataclass(frozen=True)
class CsvFile:
    """A header and its records, all with as many fields as the header.

    Attributes:
        name: for messages.
        columns: of the header; a nameless first column, the index that pandas writes, is dropped.
    """

    name: str
    columns: tuple[str, ...]
    lines: tuple[Line, ...]

    def column(self, name: str) -> list[str]:
        """The fields of one column."""
        k = self.columns.index(name)
        return [line.fields[k] for line in self.lines]


def read(path: str | Path) -> CsvFile:
    """Read a file in UTF-8 (with or without BOM) whose fields are separated by comma, semicolon or tab.

    Args:
        path: of the file; `-` reads standard input.

    Raises:
        DataError: no such file, a directory, not UTF-8, empty, nothing below the header, a nameless or repeated
            column, a row with the wrong number of fields.
    """
    name = "standard input" if str(path) == "-" else str(path)
    lines = _split(_decode(_bytes(path, name), name), name)
    if len(lines) < 2:
        raise DataError(f"{name}: {'nothing below the header' if lines else 'the file is empty'}; {_WANTED}")
    header, rows = lines[0].fields, lines[1:]
    for row in rows:
        if len(row.fields) != len(header):
            raise DataError(
                f"{name}, line {row.number}: {len(row.fields)} fields where the header has {len(header)} "
                f"({', '.join(header)}); a field that holds the delimiter needs double quotes"
            )
    if not header[0]:
        header, rows = header[1:], [Line(row.number, row.fields[1:]) for row in rows]
    _check_header(header, f"{name}, line {lines[0].number}")
    return CsvFile(name, header, tuple(rows))


_WANTED = "wanted: a header and one row per run, `arm,seed,test_accuracy` say"


def _bytes(path: str | Path, name: str) -> bytes:
    if str(path) == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise DataError(f"{name}: no such file") from None
    except IsADirectoryError:
        raise DataError(f"{name} is a directory; name a CSV file in it") from None
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror}") from None


def _decode(raw: bytes, name: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        byte = raw[error.start]
        raise DataError(f"{name}, line {line}: byte 0x{byte:02x} is not UTF-8; save the file as UTF-8") from None


def _split(text: str, name: str) -> list[Line]:
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(_DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    try:
        lines = [Line(reader.line_num, tuple(field.strip() for field in fields)) for fields in reader]
    except csv.Error as error:
        raise DataError(f"{name}, line {reader.line_num}: not readable as CSV, {error}") from None
    return [line for line in lines if any(line.fields)]


def _check_header(header: tuple[str, ...], where: str) -> None:
    for k, column in enumerate(header):
        if not column:
            raise DataError(f"{where}: column {k + 1} has no name; {_WANTED}")
        if column in header[:k]:
            raise DataError(f"{where}: two columns are called {column!r}; rename one")
