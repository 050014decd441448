"""How commands that look at models print: in the width, the colours and the characters that the terminal has."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager, redirect_stdout
from typing import Any

import click

_STYLES: dict[str, dict[str, Any]] = {
    "bold": {"bold": True},
    "error": {"fg": "red", "bold": True},
    "warning": {"fg": "yellow", "bold": True},
    "dim": {"dim": True},
}
_NARROWEST, _WIDEST = 60, 120
_OTHERS = str.maketrans(
    {"σ": "sigma", "μ": "mu", "√": "sqrt", "∂": "d", "…": "...", "\N{COMBINING CIRCUMFLEX ACCENT}": "^"}
    | dict(zip("▁▂▃▄▅▆▇█", "_.-:=+*#", strict=True))
)


def prints_aside() -> AbstractContextManager[object]:
    """While it lasts, what a model prints goes to standard error: it is no part of the report, or of its JSON."""
    return redirect_stdout(sys.stderr)


def width(widest: int = _WIDEST) -> int:
    """Columns to fill, within what reads well; 100 where there is no terminal."""
    return min(max(shutil.get_terminal_size((100, 24)).columns, _NARROWEST), widest)


def print_lines(lines: Iterable[tuple[str, str]]) -> None:
    """Print lines, each with the name of its style, or "" for none."""
    plain = "NO_COLOR" in os.environ or not sys.stdout.isatty()
    for line, style in lines:
        text = legible(line)
        click.echo(text if plain or not style else click.style(text, **_STYLES[style]))


def legible(text: str) -> str:
    """In the characters that the output's encoding has."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        from normlab.study.report.terminal import LEGACY

        return text.translate(LEGACY | _OTHERS).encode("ascii", "replace").decode()
    return text
