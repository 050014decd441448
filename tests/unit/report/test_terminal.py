from __future__ import annotations

import io
import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from normlab.study.report import terminal
from normlab.study.report.table import tables
from tests.unit.report import documents


def shown(document, width=100, style="default", **options):
    out = io.StringIO()
    terminal.show(document, Console(file=out, width=width, **options), style)
    return out.getvalue()


@pytest.mark.parametrize("style", ["default", "paper"])
@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_no_line_is_too_wide(document, width, style):
    assert max(cell_len(line) for line in shown(document, width, style).splitlines()) <= width


@pytest.mark.parametrize("width", [30, 80, 100, 140])
def test_no_number_is_cropped_or_wrapped(document, width):
    text = shown(document, width)
    for table in tables(document, "default"):
        for row in table.rows:
            for i in (3, 7) if width > 60 else (3,):
                assert row.cells[i].text.replace("\N{NO-BREAK SPACE}", " ") in text


def test_columns_that_do_not_fit_are_named():
    narrow, wide = shown(documents.regular(), 80), shown(documents.regular(), 140)
    assert "too narrow here for: n, d_z, P(better)" in narrow
    assert "P(better)" in wide
    assert "too narrow" not in wide


def test_the_four_verdicts_and_what_follows_them():
    text = shown(documents.regular(), 140) + shown(documents.diverged(), 140)
    assert re.search(r"γ 0.10 +15 .* better\n", text)
    assert "equivalent within ±0.5 (TOST p = .001)" in text
    assert "unresolved: ~22 more seeds for 80 % power" in text
    assert "1 diverged (seed 7), counted as chance level, 10 %; without it Δ = +0.43" in text
    assert "−0.02‡" in text


def test_footer_names_family_level_pairing_and_test_set():
    text = shown(documents.regular(), 140)
    assert "family: 4 recipes, exact sign-flip, Holm, α = .05 one-sided" in text
    assert "pairing ρ = 0.37 (0.12 to 0.62): unpaired arms would need ×1.6 the seeds" in text
    assert "test-set SE ±0.20 points, not included in the CI; ‡ |Δ| < 2 test-set SE" in text


def test_failed_and_missing_runs_are_named_by_seed():
    text = shown(documents.holes(), 140)
    assert "1 failed (seed 3), no pair; 1 missing (seed 1), no pair" in text
    assert "4§" in text
    assert "error: nothing has no finished run" in text
    assert "γ 0.10, seed 3: RuntimeError: <b>out & of</b> memory (traceback: runs/γ 0.10/3/error.txt)" in text


def test_bold_is_for_adjusted_significance_only():
    text = shown(documents.regular(), 140, force_terminal=True, color_system="standard", no_color=True)
    bold = [found.strip() for found in re.findall(r"\x1b\[1m(.*?)\x1b\[0m", text.split("lr 0.002")[0])]
    assert {"γ 0.10", "+1.35", "<.0001", "better"} <= set(bold)
    assert not {"GN-32", "−0.02‡", "90.64 ± 0.38"} & set(bold)


def test_paper_style_shows_its_marks_without_styling():
    text = shown(documents.regular(), 80, "paper")
    assert "*_90.64 ± 0.38" in text
    assert "* bold, _ underlined" in text
    assert "not adjusted for" in text
    assert "*_" not in shown(documents.regular(), 80, "paper", force_terminal=True, color_system="standard")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_pipe_without_these_characters(document, encoding):
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    terminal.show(document, Console(file=out, width=100))
    out.seek(0)
    assert "+/-" in out.read() or encoding == "cp1252"


def test_names_are_no_markup():
    text = shown(documents.ugly(), 140)
    assert "[red]" in text
    assert "\x1b" not in text
