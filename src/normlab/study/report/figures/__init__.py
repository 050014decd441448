"""The figures of a report as SVG texts: pairs, differences, looks, training curves, power."""

from normlab.study.report.figures.curves import curves
from normlab.study.report.figures.forest import forest
from normlab.study.report.figures.looks import looks
from normlab.study.report.figures.pairs import pairs
from normlab.study.report.figures.power import level, power

__all__ = ["curves", "forest", "level", "looks", "pairs", "power"]
