"""What all figures share: colours, type, axis limits that one diverged run cannot squash, and the SVG text.

matplotlib's Figure is used without pyplot, and its settings only inside `rc_context`: nothing global changes.
"""

from __future__ import annotations

import html
import io
import re
import textwrap
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from normlab.page import format as fmt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
INK, GREY, FAINT, GRID = "#1f2933", "#6b7682", "#b4bcc5", "#e6eaee"
BETTER, WORSE = "#0072B2", "#D55E00"  # blue and vermilion of Okabe and Ito: told apart by everybody
ARMS = ("#0072B2", "#D55E00", "#009E73", "#AA4499", "#E69F00", "#56B4E9", "#882255", "#7A6A00")
WIDTH = 10.0  # inches of a full figure; 960 CSS pixels
CHARACTER, BOLD = 0.072, 0.085  # inches, of the typical one at the size of labels
RC: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "normlab",
    "text.parse_math": False,  # names may hold dollars
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": GREY,
    "axes.unicode_minus": True,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "axes.linewidth": 0.8,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


def svg(draw: Callable[[], Figure], ident: str, title: str) -> str:
    """The drawing as an `<svg>` element whose ids begin with `ident`, so that many can stand in one page."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context(RC), warnings.catch_warnings():
        # Browsers have the glyphs that the font used for measuring lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        none = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        draw().savefig(buffer, format="svg", metadata=none)
    return _embeddable(buffer.getvalue(), ident, title)


def _embeddable(text: str, ident: str, title: str) -> str:
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r"<[^>]*>", lambda tag: _tag(tag[0], ident), text)
    label = f'<title id="{ident}-title">{html.escape(fmt.printable(title))}</title>'
    head, body = text.split(">", 1)
    return f'{head} role="img" aria-labelledby="{ident}-title">{label}{body}'.strip()


def _tag(tag: str, ident: str) -> str:
    """One tag with its ids made unique, and coordinates to a hundredth of a point."""
    tag = re.sub(r'\bid="([^"]+)"', rf'id="{ident}-\1"', tag)
    tag = re.sub(r'(url\(|href=")#', rf"\1#{ident}-", tag)
    return re.sub(r"(\d\.\d\d)\d+", r"\1", tag) if tag.startswith(("<path", "<use")) else tag


def figure(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def axes(fig: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place given in inches from the lower left corner, without frame and with a light grid."""
    w, h = fig.get_size_inches()
    ax = fig.add_axes((left / w, bottom / h, width / w, height / h))
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(length=0, labelsize=8.5)
    ax.set_axisbelow(True)
    ax.grid(visible=True, axis="y", color=GRID, linewidth=0.8)
    return ax


def whole_ticks(ax: Axes) -> None:
    """Ticks of the horizontal axis at integers only: there is no half epoch, and no half seed."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))


def limits(groups: Sequence[Floats], *, pad: float = 0.07) -> tuple[float, float]:
    """Ends of an axis that shows all groups, but not values far from the rest of their own group.

    Far is five interquartile ranges outside the quartiles, and only if the axis would otherwise grow to more than
    2.5 times the length: then the value is drawn at the edge and labelled.
    """
    known = [g[np.isfinite(g)] for g in groups]
    known = [g for g in known if g.size]
    if not known:
        return 0.0, 1.0
    near = np.concatenate([_near(g) for g in known])
    every = np.concatenate(known)
    shown = every if np.ptp(every) <= 2.5 * np.ptp(near) else near
    low, high = float(shown.min()), float(shown.max())
    room = pad * (high - low) or max(abs(low) * 0.01, 1e-6)
    return low - room, high + room


def _near(group: Floats) -> Floats:
    low, high = np.percentile(group, [25, 75])
    reach = 5 * (high - low)
    return group[(group >= low - reach) & (group <= high + reach)] if reach > 0 else group


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places near the wanted ones, in their order and at least `gap` apart, between `low` and `high` if they fit."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    places = [0.0] * len(wanted)
    floor = low
    for i in order:
        places[i] = max(wanted[i], floor)
        floor = places[i] + gap
    ceiling = max(high, low + gap * (len(wanted) - 1))
    for i in reversed(order):
        places[i] = min(places[i], ceiling)
        ceiling = places[i] - gap
    return places


def label(name: str, width: int, lines: int = 2) -> str:
    """A name for a figure: wrapped, and cut with … where it is longer than the given lines."""
    parts = textwrap.wrap(fmt.printable(name), width)
    if len(parts) > lines:
        parts = [*parts[: lines - 1], parts[lines - 1][: width - 1] + "…"]
    return "\n".join(parts)


def colour(i: int) -> str:
    """Colour of the i-th treatment."""
    return ARMS[i % len(ARMS)]
