r"""Text for LaTeX: everything that pdfLaTeX in its plainest setup compiles, `γ 0.10` as `$\gamma$ 0.10`."""

from __future__ import annotations

import unicodedata

from normlab.page import format as fmt

# The alphabets in the order of Unicode; letters that look like Latin ones have no command, _ is not a letter.
_GREEK = """alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi o pi rho varsigma sigma tau
upsilon phi chi psi omega"""
_CAPITALS = "A B Gamma Delta E Z H Theta I K Lambda M N Xi O Pi P _ Sigma T Upsilon Phi X Psi Omega"
_MATHS = r"""± \pm   − -   × \times   · \cdot   → \to   ← \leftarrow   ↓ \downarrow   ↑ \uparrow   ≤ \leq   ≥ \geq
≠ \neq   ≈ \approx   ∞ \infty   ∈ \in   ∂ \partial   √ \surd   ° ^{\circ}   µ \mu   ϵ \epsilon   < <   > >   | |"""
_TEXTS = r"""\ \textbackslash{}   ~ \textasciitilde{}   ^ \textasciicircum{}   " ''   { \{   } \}   # \#   $ \$   % \%
& \&   _ \_   — ---   – --   … \dots{}   § \S{}   ‡ \ddag{}   † \dag{}   ‘ `   ’ '   “ ``   ” ''   ß \ss{}
ø \o{}   Ø \O{}   æ \ae{}   ł \l{}"""


def _table() -> dict[str, str]:
    """Character → source."""
    names = {chr(0x3B1 + i): name for i, name in enumerate(_GREEK.split())}
    names |= {chr(0x391 + i): name for i, name in enumerate(_CAPITALS.split()) if name != "_"}
    maths = {c: f"\\{name}" if len(name) > 1 else rf"\mathrm{{{name}}}" for c, name in names.items()} | _pairs(_MATHS)
    return {c: f"${source}$" for c, source in maths.items()} | _pairs(_TEXTS) | {fmt.NBSP: "~"}


def _pairs(text: str) -> dict[str, str]:
    words = text.split()
    return dict(zip(words[::2], words[1::2], strict=True))


TABLE = _table()


def escape(text: str) -> str:
    r"""A text on one line as LaTeX source in ASCII; what cannot be said in it becomes `?` (see `lost`)."""
    # The braces keep -- and ?` from becoming ligatures.
    return "".join(map(_character, fmt.printable(text).replace("--", "-\0-"))).replace("\0", "{}")


def lost(text: str) -> set[str]:
    """The characters that `escape` replaces by `?`."""
    return {c for c in fmt.printable(text) if c != "?" and _character(c) == "?"}


def _character(c: str) -> str:
    if c in TABLE:
        return TABLE[c]
    if c.isascii():
        return c
    plain = "".join(part for part in unicodedata.normalize("NFKD", c) if not unicodedata.combining(part))
    return "".join(TABLE.get(part, part) if part.isascii() or part in TABLE else "?" for part in plain) or "?"
