"""The changes of a conversion as plain text."""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from normlab.surgery.conversion.carry import STATS

WIDTH = 120
HEADER = ("layer", "features", "before", "after", "kept", "dropped", "added", "at eval")
_PARTS = re.compile(r"[ (]*[^ (,.]+[,.]*")
_NUMBERS = re.compile(r"\d+")


@dataclass(frozen=True)
class Change:
    """One layer in the place of another.

    Args:
        names: all names that the layer has in the model; empty for the model itself.
        num_features: C.
        before, after: the types, with arguments that are not defaults.
        kept: tensors handed over, by their names in the old layer, and children that follow the norm.
        dropped: tensors of the old layer that the new one has no place for.
        added: tensors of the new layer that the old one did not have.
        exact_at_eval: does it give the same in eval mode? None where that could not be tried.
        note: what else there is to know; may be empty.
    """

    names: tuple[str, ...]
    num_features: int
    before: str
    after: str
    kept: tuple[str, ...]
    dropped: Mapping[str, Tensor]
    added: Mapping[str, Tensor]
    exact_at_eval: bool | None
    note: str


@dataclass(frozen=True)
class Left:
    """A layer that was left alone: its name and type."""

    name: str
    type: str


def render(changes: tuple[Change, ...], left: tuple[Left, ...], footers: Iterable[str], *, dry_run: bool) -> str:
    """See `ConversionRecord.table`.

    Args:
        footers: sentences to end with.
    """
    notes: list[str] = []
    rows = [HEADER, *(_row(group, notes) for group in _grouped(changes))]
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    verb = "would be converted" if dry_run else "converted"
    lines = [f"{len(changes)} {'layer' if len(changes) == 1 else 'layers'} {verb}", ""]
    lines += _laid_out([list(row) for row in zip(*columns, strict=True)])
    lines += [""] * bool(notes) + [line for i, note in enumerate(notes) for line in _wrapped(f"[{i + 1}] ", note)]
    for footer in (*footers, *_left_alone(left)):
        lines += ["", *_wrapped("", footer)]
    return "\n".join(line.rstrip() for line in lines)


def _row(group: list[Change], notes: list[str]) -> tuple[str, ...]:
    first, sizes = group[0], [change.num_features for change in group]
    mark = ""
    if first.note:
        notes += [first.note] * (first.note not in notes)
        mark = f" [{notes.index(first.note) + 1}]"
    exact = {True: "same", False: "differs", None: "unknown"}[first.exact_at_eval]
    size = str(sizes[0]) if min(sizes) == max(sizes) else f"{min(sizes)}..{max(sizes)}"
    kept, dropped, added = (_tensors(names) for names in (first.kept, first.dropped, first.added))
    return _name(group), size, first.before, first.after, kept, dropped, added, exact + mark


def _grouped(changes: Iterable[Change]) -> list[list[Change]]:
    """Layers whose names differ by numbers, and nothing else about them but their width."""
    groups: dict[Any, list[Change]] = {}
    for c in changes:
        facts = c.before, c.after, c.kept, tuple(c.dropped), tuple(c.added), c.exact_at_eval, c.note
        shape = tuple("*".join(_NUMBERS.split(name)) for name in map(_head, c.names))
        groups.setdefault((shape, tuple(map(_last, c.names)), facts), []).append(c)
    return list(groups.values())


def _head(name: str) -> str:
    """The part of a name in which numbers count layers of a kind: not the 1 of `layer2.0.bn1`."""
    return name[: len(name) - len(_last(name))]


def _last(name: str) -> str:
    part = name.rpartition(".")[2]
    return "" if part.isdigit() else part


def _name(group: list[Change]) -> str:
    """`layer*.*.bn1 (x16)`: numbers that differ are stars, so that it can be used as a pattern for `where`."""
    if len(group) == 1:
        first, *others = group[0].names
        return (first or "(the model)") + (f" = {', '.join(others)}" if others else "")
    heads = [_head(change.names[0]) for change in group]
    numbers = zip(*(_NUMBERS.findall(head) for head in heads), strict=True)
    stars = [column[0] if len(set(column)) == 1 else "*" for column in numbers]
    between = _NUMBERS.split(heads[0])
    text = "".join(part for pair in zip(between, [*stars, ""], strict=True) for part in pair)
    text += _last(group[0].names[0])
    return ", ".join(heads) if text == "*" else f"{text} (x{len(group)})"


def _tensors(names: Iterable[str]) -> str:
    """The three running statistics are one word: stats."""
    given = list(names)
    stats = [name for name in given if name in STATS]
    if len(stats) == len(STATS):
        at = given.index(stats[0])
        given = [*given[:at], "stats", *(name for name in given[at:] if name not in stats)]
    return ", ".join(given)


def _laid_out(rows: list[list[str]]) -> list[str]:
    """Columns as wide as they need to be, the widest ones wrapped until all fit."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    least = [max(len(part) for text in column for part in _PARTS.findall(text) or [text]) for column in columns]
    while sum(widths) + 2 * (len(widths) - 1) > WIDTH:
        spare = [width if width > word else 0 for width, word in zip(widths, least, strict=True)]
        wide = spare if any(spare) else widths  # words are broken only where nothing else is left
        widths[wide.index(max(wide))] -= 1
    lines: list[str] = []
    for row in rows:
        cells = [_cell(text, width) for text, width in zip(row, widths, strict=True)]
        for line in itertools.zip_longest(*cells, fillvalue=""):
            lines.append("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)))
    return lines


def _cell(text: str, width: int) -> list[str]:
    """Lines of at most this width, broken before a bracket or blank, after a comma or dot, or else anywhere."""
    pieces = (part[i : i + width] for part in _PARTS.findall(text) for i in range(0, len(part), width))
    lines = [""]
    for piece in pieces:
        if lines[-1] and len(lines[-1]) + len(piece) > width:
            lines.append("")
        lines[-1] += piece if lines[-1] else piece.lstrip()
    return lines


def _wrapped(start: str, text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=start, subsequent_indent=" " * len(start))


def _left_alone(left: tuple[Left, ...]) -> list[str]:
    names: dict[str, list[str]] = {}
    for layer in left:
        names.setdefault(layer.type, []).append(layer.name)
    shown = [
        f"{len(found)} {kind}, {', '.join(found[:4])}{', ...' * (len(found) > 4)}" for kind, found in names.items()
    ]
    return [f"left alone: {'; '.join(shown)}"] if shown else []
