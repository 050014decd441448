"""The ranking as lines of plain text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from normlab.screen.screening import Ranked, Screening

Style = Literal["", "bold", "error", "warning", "dim"]
Line = tuple[str, Style]
TRIED = "group norms of 2, 4 and 8 groups, not 2, 8 and 32 as here by default"
WHERE = "results/screen/report.md in normlab's repository"
_STYLE: dict[str, Style] = {"healthy": "", "slow": "warning", "unstable": "error", "dead": "error"}


def lines(screening: Screening, width: int) -> Iterator[Line]:
    """The report, line by line, with the style of each."""
    what = f"{screening.subject}; {screening.seeds} seeds, {screening.batches} batches each; loss: {screening.loss}"
    yield from _wrapped("", what, width, "bold")
    for note in screening.notes:
        yield from _wrapped("", f"note: {note}", width)
    yield "", ""
    names = [one.norm for one in (*screening.ranked, *screening.refused)]
    column = max(map(len, names))
    yield f"{'':4}{'normalizer':{column}}  verdict   score", "bold"
    for rank, one in zip(screening.ranks, screening.ranked, strict=True):
        yield from _entry(rank, one, column, width)
    if screening.refused:
        yield "", ""
        yield "Not ranked", "bold"
    for refused in screening.refused:
        yield from _labelled(f"{'':4}{refused.norm:{column}}  ", refused.reason, width, "dim")
    yield "", ""
    for text in agreement_texts(screening):
        yield from _wrapped("", text, width)


def _entry(rank: int, one: Ranked, column: int, width: int) -> Iterator[Line]:
    head = f"{rank:2}  {one.norm:{column}}  {one.verdict:8}  {_number(one.score):>5}  "
    yield from _labelled(head, one.reason, width, _STYLE[one.verdict])


def _labelled(head: str, text: str, width: int, style: Style) -> Iterator[Line]:
    """The text beside the head where there is room for it, or else below."""
    if width - len(head) >= 40:
        first, *rest = textwrap.wrap(text, width - len(head)) or [""]
        yield head + first, style
        for line in rest:
            yield " " * len(head) + line, style
        return
    yield head.rstrip(), style
    for line in textwrap.wrap(text, width - 6):
        yield " " * 6 + line, "dim"


def _number(score: float) -> str:
    return f"{score:.1f}" if score >= 0.05 or score == 0 else "<0.1"


def agreement_texts(screening: Screening) -> Iterator[str]:
    """What is known of the worth of such a ranking, honestly."""
    held = [panel for panel in screening.agreement.panels if not panel.develop]
    chosen = [panel for panel in screening.agreement.panels if panel.develop]
    yield "This ranking has agreed with trained accuracy by Kendall's tau, 1 for the same order and 0 for none:"
    for panel in held:
        yield f"  {panel.tau} on {panel.setting}"
    for panel in chosen:
        yield f"  {panel.tau} on {panel.setting}, where the score was chosen"
    yield f"All of them small networks, trained shortly; {TRIED} ({WHERE}). Train the first few to decide."


def _wrapped(margin: str, text: str, width: int, style: Style = "") -> Iterator[Line]:
    own = margin + " " * (len(text) - len(text.lstrip()))
    for line in textwrap.wrap(text.strip(), width - len(own) - 2) or [""]:
        yield own + line, style
