"""The report as lines of plain text."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from normlab.doctor.findings import Finding, Findings

Style = Literal["", "bold", "error", "warning", "dim"]
Line = tuple[str, Style]

_MARGIN = "  "
_LABEL = 5


def lines(findings: Findings, width: int) -> Iterator[Line]:
    """The report, line by line, with the style of each."""
    yield from _wrapped("", findings.subject, width, "bold")
    for note in findings.notes:
        yield from _wrapped("", note, width)
    for found in findings.findings:
        yield "", ""
        yield from _finding(found, width)
    yield "", ""
    yield from _wrapped("", _summary(findings), width, "bold")
    yield from _unchecked(findings, width)


def _finding(found: Finding, width: int) -> Iterator[Line]:
    level = "could not run" if found.failed else found.level
    yield f"{found.id} {found.name} · {level}, {found.kind}", found.level
    yield from _wrapped(_MARGIN, _sentence(found), width)
    if found.layers:
        yield from _labelled("in", named(found.layers), width)
    yield from _labelled("why", found.why, width)
    yield from _labelled("fix", found.fix, width)
    yield from _labelled("see", found.url, width)


def _sentence(found: Finding) -> str:
    if not found.processes:
        return found.text
    return f"{found.text} (in process {', '.join(map(str, found.processes))})"


def _labelled(label: str, text: str, width: int) -> Iterator[Line]:
    return _wrapped(f"{_MARGIN}{label:<{_LABEL}}", text, width)


def _wrapped(start: str, text: str, width: int, style: Style = "") -> Iterator[Line]:
    after = " " * len(start)
    found = textwrap.wrap(
        text, width, initial_indent=start, subsequent_indent=after, break_long_words=False, break_on_hyphens=False
    )
    return ((line, style) for line in found or [start.rstrip()])


def named(layers: Sequence[str], most: int = 6) -> str:
    """Names of layers, those that differ by numbers alone in one: `bn1, layer*.*.bn1 (x8)`."""
    alike: dict[str, list[str]] = {}
    for name in layers:
        head, dot, last = name.rpartition(".")
        key = re.sub(r"\d+", "*", name) if last.isdigit() else re.sub(r"\d+", "*", head) + dot + last
        alike.setdefault(key, []).append(name or "the model itself")
    shown = [key if len(names) > 1 else names[0] for key, names in alike.items()]
    counts = [f" (x{len(names)})" if len(names) > 1 else "" for names in alike.values()]
    texts = [f"{name}{count}" for name, count in zip(shown, counts, strict=True)]
    left = len(layers) - sum(map(len, list(alike.values())[:most]))
    return ", ".join(texts[:most]) + (f" and {left} more" if left else "")


def _summary(findings: Findings) -> str:
    count = sum(not found.failed for found in findings.findings)
    broken = len(findings.findings) - count
    parts = ["no findings" if not count else "1 finding" if count == 1 else f"{count} findings"]
    parts += [f"{broken} could not run"] * bool(broken)
    parts += ["1 rule is clean" if len(findings.clean) == 1 else f"{len(findings.clean)} rules are clean"]
    parts += ["1 was not checked" if len(findings.unchecked) == 1 else f"{len(findings.unchecked)} were not checked"]
    return ", ".join(parts) + ":" * bool(findings.unchecked)


def _unchecked(findings: Findings, width: int) -> Iterator[Line]:
    """Rules of one reason in one line."""
    reasons: dict[str, list[str]] = {}
    for rule in findings.unchecked:
        reasons.setdefault(rule.reason, []).append(rule.id)
    for reason, ids in reasons.items():
        after = " " * 2 * len(_MARGIN)
        text = f"{', '.join(ids)}: {reason}"
        wrapped = textwrap.wrap(text, width, initial_indent=_MARGIN, subsequent_indent=after, break_long_words=False)
        for line in wrapped:
            yield line, "dim"
