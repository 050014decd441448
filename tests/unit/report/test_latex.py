from __future__ import annotations

import shutil
import subprocess

import pytest

from normlab.study.report import latex, tex
from tests.unit.report import documents

SOURCES = {
    "γ 0.10": r"$\gamma$ 0.10",
    "a_b & 50 %": r"a\_b \& 50 \%",
    "\\foo{": r"\textbackslash{}foo\{",
    "−0.04 ± 1 × 2 → 3": r"$-$0.04 $\pm$ 1 $\times$ 2 $\to$ 3",
    "é 中": "e ?",
    "a--b": "a-{}-b",
    "x² ≤ Ω": r"x2 $\leq$ $\Omega$",
    "#$^~": r"\#\$\textasciicircum{}\textasciitilde{}",
    "Αo": r"$\mathrm{A}$o",
}


@pytest.mark.parametrize(("text", "source"), SOURCES.items())
def test_escape(text, source):
    assert tex.escape(text) == source


def test_source_is_ascii_and_names_what_it_lost(document):
    text = latex.text(document)
    assert text.isascii()
    assert ("% printed as ? for want of a LaTeX command: U+4E2D" in text) == (document.name == documents.ugly().name)


def test_bold_and_underlined_come_from_the_table():
    assert r"\textbf{\boldmath $\gamma$ 0.10}" in latex.text(documents.regular())
    assert r"\textbf{\boldmath \underline{90.64~$\pm$~0.38}}" in latex.text(documents.regular(), "paper")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_every_table_compiles(tmp_path):
    bodies = [latex.text(build(), style) for build in documents.ALL for style in ("default", "paper")]
    source = latex.document(documents.ugly()).replace(latex.text(documents.ugly()), "\\clearpage\n".join(bodies))
    (tmp_path / "all.tex").write_text(source, encoding="ascii")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
    assert (tmp_path / "all.pdf").stat().st_size > 10_000
