from __future__ import annotations

import csv
import io
import json
import re

import numpy as np
import pytest
from rich.console import Console

from normlab.study.report import data, html, latex, markdown, methods, terminal
from tests.unit.report import documents


def printed(document, style="default"):
    out = io.StringIO()
    terminal.show(document, Console(file=out, width=100), style)
    return out.getvalue()


WRITERS = {"terminal": printed, "markdown": markdown.text, "latex": latex.text}
LEAK = re.compile(r"\bnan\b|\bNone\b|\binf\b|np\.|frozenset|\(\)")


@pytest.mark.parametrize("style", ["default", "paper"])
@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_nothing_of_python_leaks(document, writer, style):
    assert not LEAK.search(writer(document, style))


def test_nothing_of_python_leaks_into_the_page(page):
    body = re.sub(r"<(style|head)>.*?</\1>", "", page, flags=re.DOTALL)
    assert not LEAK.search(re.sub(r"<[^>]*>", " ", body))


@pytest.mark.parametrize("writer", [*WRITERS.values(), data.as_csv, data.as_json])
def test_equal_documents_give_equal_texts(writer):
    assert writer(documents.holes()) == writer(documents.holes())


def test_markdown_tables_are_rectangular(document):
    blocks = re.findall(r"(?:^\|.*\n)+", markdown.text(document), flags=re.MULTILINE)
    for block in blocks:
        cells = [len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()]
        assert len(set(cells)) == 1


def test_markdown_shows_names_as_they_are():
    text = markdown.text(documents.ugly())
    assert "&lt;script>alert(1)&lt;/script>" in text
    assert "<script>" not in text.split("````")[0]
    assert 'a_b & 50 % "γ"' in text
    assert r"\\foo{\$x^2\$} 中\|[red]é\~#" in text


def test_csv_reads_back_to_the_scores(document):
    rows = list(csv.DictReader(io.StringIO(data.as_csv(document))))
    scores = [panel.comparisons.scores for panel in document.panels]
    assert len(rows) == sum(s.values.size for s in scores)
    values = np.array([float(row["value"] or "nan") for row in rows])
    np.testing.assert_array_equal(values, np.concatenate([s.values.ravel() for s in scores]))


def test_csv_says_what_became_of_each_run():
    status = {(r["arm"], r["seed"]): r["status"] for r in csv.DictReader(io.StringIO(data.as_csv(documents.holes())))}
    assert status["γ 0.10", "3"] == "failed"
    assert status["γ 0.25", "6"] == "missing"
    assert status["base", "2"] == "ok"
    rows = csv.DictReader(io.StringIO(data.as_csv(documents.diverged())))
    assert [(r["arm"], r["seed"], r["value"]) for r in rows if r["status"] == "diverged"] == [("frozen γ", "7", "10.0")]


def test_json_holds_all_statistics(document):
    content = json.loads(data.as_json(document), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    for panel, read in zip(document.panels, content["panels"], strict=True):
        assert [row["delta"] for row in read["rows"]] == [
            None if np.isnan(row.delta) else row.delta for row in panel.comparisons.rows
        ]
        assert read["scores"]["seeds"] == list(panel.comparisons.scores.seeds)


def test_methods_say_what_was_done():
    text = methods.paragraph(documents.regular())
    for fact in (
        "300 images",
        "4 recipes",
        "same 15 seeds",
        "sign-flip",
        "Holm",
        "95 %",
        "±0.5 points",
        "torch 2.13.0",
    ):
        assert fact in text.replace("\N{NO-BREAK SPACE}", " ")


def test_methods_say_what_became_of_bad_runs():
    text = methods.paragraph(documents.diverged()).replace("\N{NO-BREAK SPACE}", " ")
    assert "1 run diverged and was kept, counted as chance level, 10 %." in text
    text = methods.paragraph(documents.holes()).replace("\N{NO-BREAK SPACE}", " ")
    assert "3 runs failed; the pairs were left out. 10 runs were missing" in text


@pytest.mark.parametrize("writer", [*WRITERS.values(), html.text])
def test_published_numbers_stand_beside_ours(writer):
    text = re.sub(r"[{}$~\N{NO-BREAK SPACE}]|\\(pm|,)", " ", writer(documents.published()))
    for part in ("92.80", "90.32", "train.epochs=2", "train.lr=0.001", "taken as it stands"):
        assert part in text
    assert text.count("Measured beside published") >= 2
    assert "the source has no numbers of this table" in text


def test_json_holds_published_numbers_and_the_interval():
    first, second = json.loads(data.as_json(documents.published()))["panels"]
    row = first["published"]["rows"][1]
    assert row["published"] == {"mean": 92.8, "sd": 0.2, "n": 15}
    assert row["interval"][0] < row["difference"] < row["interval"][1] < 0
    assert second["published"]["rows"] == []
    assert json.loads(data.as_json(documents.regular()))["panels"][0]["published"] is None
