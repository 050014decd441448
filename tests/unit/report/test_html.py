from __future__ import annotations

import base64
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from normlab.errors import StoreError
from normlab.study.report import data, html, latex
from tests.unit.report import documents

VOID = {"meta", "br", "hr", "img", "link", "input"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(HTMLParser):
    """Every start tag with its attributes; fails where tags do not nest."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def values(self, *names):
        return [attrs[name] for _, attrs in self.tags for name in names if name in attrs]


def test_page_is_well_formed_and_self_contained(page):
    text, page = page, Page(page)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert not {"script", "img", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    for target in page.values("src", "href", "xlink:href"):
        assert target.startswith(("#", "data:"))
        assert not target.startswith("#") or target[1:] in ids
    for target in re.findall(r"url\(([^)]*)\)", text):
        assert target.strip("'\"")[1:] in ids
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)


def test_page_says_what_it_is(page):
    page = Page(page)
    assert ("html", {"lang": "en"}) in page.tags
    drawings = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert all(attrs["role"] == "img" and attrs["aria-labelledby"] in page.values("id") for attrs in drawings)
    headers = [attrs for tag, attrs in page.tags if tag == "th"]
    assert all(attrs["scope"] in ("row", "col") for attrs in headers)


@pytest.mark.parametrize(
    ("label", "writer"), [("CSV", data.as_csv), ("JSON", data.as_json), ("LaTeX", latex.text)], ids=lambda x: str(x)[:5]
)
def test_downloads_hold_the_other_formats(document, page, label, writer):
    link = re.search(rf'download="([^"]+)" href="data:[^;]+;base64,([^"]*)">[^<]*{label}', page)
    assert re.fullmatch(r"[\w.-]+", link[1])
    assert base64.b64decode(link[2]).decode() == writer(document)


def test_a_study_of_four_recipes_gives_a_small_page_with_its_answers():
    text = html.text(documents.regular())
    assert len(text.encode()) < 600_000
    answer = "γ 0.10 is better than base: +1.35 points [+1.12, +1.57], 15 seeds, p &lt; .0001."
    assert answer in text.replace("\N{NO-BREAK SPACE}", " ")


def test_equal_documents_give_equal_pages():
    assert html.text(documents.diverged()) == html.text(documents.diverged())


def test_tracebacks_are_read_from_where_they_are_kept(tmp_path):
    document = documents.holes()
    kept = tmp_path / "error.txt"
    kept.write_text("Traceback <most recent>")
    object.__setattr__(document.failures[0], "traceback", str(kept))
    text = html.text(document)
    assert "Traceback &lt;most recent&gt;" in text
    assert "The traceback is kept in runs/nothing/1/error.txt." in text


def test_write_replaces_the_whole_file(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    html.write(documents.one_arm(), path)
    assert path.read_text(encoding="utf-8") == html.text(documents.one_arm())
    assert list(tmp_path.iterdir()) == [path]


def test_a_path_that_cannot_be_written_is_an_error(tmp_path):
    for path in (tmp_path / "missing" / "report.html", tmp_path):
        with pytest.raises(StoreError, match=f"cannot write the report to {re.escape(str(path))}: "):
            html.write(documents.alone(), path)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize("build", [documents.regular, documents.ugly], ids=lambda build: build.__name__)
def test_a_browser_opens_it_without_complaint(tmp_path, build):
    page, picture, log = tmp_path / "page.html", tmp_path / "page.png", tmp_path / "net.json"
    html.write(build(), page)
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={log}", "--enable-logging=stderr", "--v=0"]
    command += [f"--screenshot={picture}", "--window-size=1280,1600", page.as_uri()]
    done = subprocess.run(command, capture_output=True, check=False, timeout=120)
    assert picture.stat().st_size > 30_000, done.stderr.decode()[-2000:]
    assert b"CONSOLE" not in done.stderr
    hosts = set(re.findall(r'"url":"(?:https?|wss?)://([^/"]*)', log.read_text()))
    # Chromium looks for its own updates and accounts whatever the page is.
    assert not {host for host in hosts if not host.endswith((".google.com", ".googleapis.com"))}
