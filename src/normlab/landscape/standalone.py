"""An SVG that stands alone: a file, with a ground of its own, in the colours that its viewer prefers."""

from __future__ import annotations

import re

from normlab.page import canvas

GROUND, DARK_GROUND = "#ffffff", "#12171c"
DARK = {  # what canvas draws with → what is read as well on a dark ground
    canvas.INK: "#e4e9ee",
    canvas.GREY: "#9aa7b3",
    canvas.FAINT: "#56616c",
    canvas.GRID: "#262e36",
    canvas.BETTER: "#4795e6",
    canvas.WORSE: "#f0894d",
    "#009e73": "#3cc79f",
    "#aa4499": "#d583c6",
    "#e69f00": "#f0b93a",
    "#56b4e9": "#a5e3fb",
    "#000000": "#e4e9ee",
}


def standalone(svg: str) -> str:
    """An `<svg>` of `canvas.svg` as a file of its own."""
    head, rest = svg.split(">", 1)
    if "xmlns=" not in head:
        head += ' xmlns="http://www.w3.org/2000/svg"'
    ground = f'<rect class="ground" width="100%" height="100%" fill="{GROUND}"/>'
    return f"{head}><style>{_style(rest)}</style>{ground}{rest}\n"


def _style(text: str) -> str:
    used = {colour.lower() for colour in re.findall(r"#[0-9a-fA-F]{6}", text)}
    rules = [f".ground{{fill:{DARK_GROUND}}}"]
    for light, dark in DARK.items():
        if light.lower() in used or light == canvas.INK:
            for kind in ("fill", "stroke"):
                rules.append(f'[style*="{kind}: {light.lower()}"]{{{kind}:{dark} !important}}')
    dark = f"text{{fill:{DARK[canvas.INK]}}}{''.join(rules)}"
    return f"text{{fill:{canvas.INK}}}@media(prefers-color-scheme:dark){{{dark}}}"
