"""Fills the templates of HTML pages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def render(template: Path, view: Mapping[str, Any]) -> str:
    """The page, all values escaped but `Markup`; a template may include `style.css` and those beside it."""
    import jinja2

    loader = jinja2.FileSystemLoader([template.parent, Path(__file__).parent])
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.undefined = jinja2.StrictUndefined
    return environment.get_template(template.name).render(view)
