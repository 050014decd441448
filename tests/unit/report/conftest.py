from __future__ import annotations

import pytest

from normlab.study.report import html
from tests.unit.report import documents


@pytest.fixture(scope="session", params=documents.ALL, ids=lambda build: build.__name__)
def document(request):
    return request.param()


@pytest.fixture(scope="session")
def page(document):
    """The HTML of the document; drawing the figures takes most of the time of these tests."""
    return html.text(document)
