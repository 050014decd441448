"""All formats of one report, side by side in a directory."""

from __future__ import annotations

from pathlib import Path

from normlab.atomic import write_atomically
from normlab.errors import StoreError
from normlab.study.report import data, html, latex, markdown
from normlab.study.report.document import Document


def write_all(document: Document, directory: Path) -> Path:
    """Write report.html, report.md, results.csv, results.json and table.tex.

    Returns:
        The path of report.html.

    Raises:
        StoreError: the directory cannot be made or written.
    """
    texts = {
        "report.md": markdown.text(document),
        "results.csv": data.as_csv(document),
        "results.json": data.as_json(document),
        "table.tex": latex.text(document),
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_atomically(directory / name, text)
    except OSError as error:
        raise StoreError(
            f"cannot write the report to {directory}: {error.strerror}; choose another with --out"
        ) from None
    html.write(document, directory / "report.html")
    return directory / "report.html"
