"""The report as text, as JSON, as a page."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess

import pytest
import torch
from torch import nn

from normlab.errors import DataError
from normlab.inspect import inspect
from normlab.inspect.text import lines, number, sparkline
from tests.unit.inspect.nets import Pair, chain, images, small
from tests.unit.report.test_html import CHROMIUM, Page


@pytest.fixture(scope="module")
def ill():
    return inspect(chain(lambda c: nn.GroupNorm(1, c)), images(16, 16))


@pytest.fixture(scope="module")
def broken():
    model = small()
    with torch.no_grad():
        model[4].weight[0] = float("nan")
    return inspect(model, images())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0, "0"),
        (-0.0, "0"),
        (1.0, "1"),
        (0.3412, "0.341"),
        (0.0123, "0.012"),
        (-12.345, "-12.3"),
        (1234.5, "1234"),
        (1.34e-6, "1.3e-6"),
        (5e12, "5.0e12"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
    ],
)
def test_numbers_are_short(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0.0, 0.5, 1.0], "▁▅█"),
        ([1.0, 10.0, 100.0, 1000.0], "▁▃▆█"),
        ([1.0, None, math.nan, 2.0], "▁ x█"),
        ([3.0, 3.0], "▁▁"),
        ([None, math.inf], " x"),
        ([-1.0, 1.0], "▁█"),
    ],
    ids=["linear", "by-logarithms", "holes", "constant", "nothing-finite", "negative"],
)
def test_sparklines(values, text):
    assert sparkline(values, 10) == text


def test_a_sparkline_of_many_layers_shows_the_largest_of_each_part():
    values = [1.0] * 100
    values[57] = 1.5
    assert sparkline(values, 10) == "▁▁▁▁▁█▁▁▁▁"


@pytest.mark.parametrize("width", [60, 100, 200])
def test_text_begins_with_the_verdict_and_has_every_layer_and_quantity(ill, width):
    found = [line for line, _ in lines(ill, width)]
    assert "Not healthy: the layers stop telling" in " ".join(found[:4])
    text = "\n".join(found)
    for head in ("γ mean ± sd", "β mean ± sd", "drift", "shape", "type", "σ", "γ/σ", "beyond 6", "variance"):
        assert head in text
    for head in ("cosine", "rank", "gradient"):
        assert re.search(rf"^{head} .*[▁▂▃▄▅▆▇█]{{10}}", text, re.MULTILINE)
    assert all(re.search(rf"^{row.name} ", text, re.MULTILINE) for row in ill.rows)


def test_wide_terminals_have_one_table_and_narrow_ones_two(ill):
    assert sum(line.startswith("layer ") for line, _ in lines(ill, 200)) == 1
    assert sum(line.startswith("layer ") for line, _ in lines(ill, 100)) == 2


def test_what_is_outside_is_marked_without_colour(ill, broken):
    marked = next(row for row in ill.rows if row.marks)
    line = next(line for line, _ in lines(ill, 100) if line.startswith(f"{marked.name} "))
    assert line.count("!") == len(marked.marks)
    assert "outside" in str(ill)
    assert "nan!" in str(broken)


def test_text_without_greek_letters_keeps_its_columns(ill):
    def plain(text):
        return text.replace("γ", "gamma").replace("β", "beta").replace("σ", "sigma")

    table = [line for line, _ in lines(ill, 200, plain)]
    start = next(i for i, line in enumerate(table) if line.startswith("layer "))
    assert "gamma/sigma" in table[start]
    ends = {len(line.rstrip("! ")) for line in table[start : start + 5]}
    assert max(ends) - min(ends) <= 1


def test_layers_that_are_not_called_have_no_numbers():
    text = str(inspect(Pair(), (images(), images())))
    assert re.search(r"^idle +(- +)+-$", text, re.MULTILINE)
    assert "not called" in text


def test_json_holds_all_of_it_in_plain_values(ill, broken):
    for report in (ill, broken):
        found = json.loads(json.dumps(report.as_json(), allow_nan=False))
        assert len(found["rows"]) == len(report.rows)
        assert found["healthy"] is False
        assert found["statements"][0]["layers"] == list(report.statements[0].layers)
    assert found["rows"][1]["activation_variance"] == "nan"
    assert found["rows"][0]["weight"]["drift"] == 0


@pytest.fixture(scope="module")
def page(ill, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    ill.html(path)
    return path


def test_the_page_is_well_formed_and_self_contained(page):
    text = page.read_text(encoding="utf-8")
    parsed = Page(text)
    ids = parsed.values("id")
    assert len(ids) == len(set(ids))
    assert not {"script", "img", "link", "iframe", "object"} & {tag for tag, _ in parsed.tags}
    assert all(target.startswith("#") for target in parsed.values("src", "href", "xlink:href"))
    assert sum(tag == "svg" for tag, _ in parsed.tags) == 9
    assert "▲" in text
    assert "@media screen and (prefers-color-scheme: dark)" in text


def test_a_page_of_values_that_are_not_finite_and_names_that_look_like_tags(broken, tmp_path):
    broken.html(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    Page(text)
    assert "✕" in text

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.add_module("<b>&", nn.BatchNorm2d(3))

        def forward(self, x):
            return self.get_submodule("<b>&")(x)

    inspect(Named(), images()).html(tmp_path / "page.html")
    assert "&lt;b&gt;&amp;" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_notebook_shows_verdict_and_table(ill):
    text = ill._repr_html_()
    assert "Not healthy" in text
    assert "<table>" in text
    assert "<html" not in text


def test_a_path_that_cannot_be_written(ill, tmp_path):
    for path in (tmp_path / "missing" / "page.html", tmp_path):
        with pytest.raises(DataError, match="cannot be written"):
            ill.html(path)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_browser_opens_it_without_complaint(page, tmp_path):
    picture = tmp_path / "page.png"
    assert shutil.which(CHROMIUM) == CHROMIUM
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--v=0"]
    command += [f"--screenshot={picture}", "--window-size=1280,1600", page.as_uri()]
    done = subprocess.run(command, capture_output=True, check=False, timeout=120)
    assert picture.stat().st_size > 30_000, done.stderr.decode()[-2000:]
    assert b"CONSOLE" not in done.stderr
