"""Drawings of one strip per recipe, in rows side by side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from normlab.page import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_COLUMNS = 6
LEFT, BOTTOM, TOP, HEIGHT, WIDEST = 0.62, 0.38, 0.62, 2.3, 2.6  # inches


class Strips:
    """A figure with room for `count` strips; the scale stands at the left of each line of them.

    Attributes:
        figure: what is drawn on.
        wide: characters that a strip has room for.
    """

    def __init__(self, count: int, *, bottom: float = BOTTOM) -> None:
        self._columns = max(min(count, MOST_COLUMNS), 1)
        self._lines = -(-count // self._columns) or 1
        self._bottom, self._block = bottom, bottom + HEIGHT + TOP
        self._strip = min((canvas.WIDTH - LEFT - 0.1) / self._columns, WIDEST)
        self._count = count
        self.wide = int(self._strip * 0.88 / canvas.BOLD)
        self.figure: Figure = canvas.figure(LEFT + self._strip * self._columns + 0.1, self._block * self._lines)

    def axes(self, scale: str) -> Iterator[Axes]:
        """The axes of each strip in turn; `scale` is the name of what goes upwards."""
        for i in range(self._count):
            line, column = divmod(i, self._columns)
            bottom = self._block * (self._lines - 1 - line) + self._bottom
            ax = canvas.axes(self.figure, LEFT + self._strip * column, bottom, self._strip * 0.9, HEIGHT)
            ax.tick_params(labelleft=column == 0)
            ax.spines["left"].set_visible(False)
            if column == 0:
                ax.set_ylabel(scale, fontsize=8.5)
            yield ax

    def title(self, ax: Axes, name: str, below: str) -> None:
        """The recipe's name over its strip, and a few grey words under it."""
        ax.set_title(canvas.label(name, self.wide), fontsize=9, fontweight="bold", loc="left", pad=18)
        ax.text(0, 1.03, below, transform=ax.transAxes, color=canvas.GREY, fontsize=8.5)
