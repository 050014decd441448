from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest

from normlab.page import canvas
from normlab.study.report import figures
from tests.unit.report import documents


def test_drawings_are_xml_without_dates_and_loads(page):
    for drawing in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL):
        root = ET.fromstring(drawing)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert not re.search(r"<metadata|nan|<image", drawing)


def test_one_drawing_for_each_question(document, page):
    rows = [panel.comparisons.rows for panel in document.panels]
    curves = sum(
        v.shape[1] > 1
        for panel in document.panels
        for v in (next(iter(runs.values())) for runs in panel.curves.values())
    )
    looks = sum(panel.comparisons.design is not None for panel in document.panels)
    assert page.count("<svg") == sum(3 for row in rows if row) + curves + looks


def test_names_stay_text():
    texts = list(ET.fromstring(figures.forest(documents.ugly().panels[0].comparisons, "f")).itertext())
    assert "<script>alert(1)</script>" in texts
    assert "\\foo{$x^2$} 中|[red]é~#" in texts


def test_drawing_changes_no_global_setting():
    before = dict(mpl.rcParams)
    figures.pairs(documents.one_arm().panels[0].comparisons, "a")
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("outlier", [10.0, -1e6, 1e30])
def test_one_far_value_does_not_squash_the_axis(outlier):
    group = np.array([89.0, 89.4, 89.2, 89.9, 89.6, outlier])
    low, high = canvas.limits([group, group[:5] + 1])
    assert 80 < low < 89
    assert 90.9 < high < 95


def test_far_values_are_labelled_at_the_edge():
    drawing = figures.pairs(documents.diverged().panels[0].comparisons, "a")
    assert "seed 7: 10.00" in drawing
    assert "mean: 84.61" in drawing


@pytest.mark.parametrize("values", [[], [np.nan], [5.0], [5.0, 5.0]])
def test_an_axis_always_has_a_length(values):
    low, high = canvas.limits([np.array(values)])
    assert low < high


@pytest.mark.parametrize("wanted", [[0.5] * 5, [0.99, 1.0, 0.98], [0.0, 0.01, 0.5], [0.3, 0.1, 0.2]])
def test_labels_are_pushed_apart_in_order(wanted):
    places = canvas.spread(wanted, 0.1, 0.0, 1.0)
    order = np.argsort(wanted, kind="stable")
    assert np.all(np.diff(np.array(places)[order]) >= 0.1 - 1e-9)
    assert min(places) >= -1e-9
    assert max(places) <= 1 + 1e-9
