"""What the numbers mean, in words: what is wrong, where it begins, and what to do; or why all is well."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from normlab.inputs import Inputs
from normlab.inspect.health import judged, scaled
from normlab.inspect.measure import Row
from normlab.inspect.ranges import RANGES, Range, Side, range_of

_BACKWARD = ("gradient_norm",)
_WITHOUT_NORMS = (
    "put a norm behind each convolution or linear layer, or scale the initial weights to what goes in (Kaiming's for "
    "ReLU); skip connections help too"
)


@dataclass(frozen=True)
class Statement:
    """One thing that is wrong, or to be remarked.

    Args:
        quantity: "" where values are not finite. title: in a few words; text: with numbers. begins: where, in words.
        do: what to do. grave: the network is not healthy; else a remark. layers: in the order of their calls.
    """

    quantity: str
    title: str
    text: str
    begins: str
    do: str
    grave: bool
    layers: tuple[str, ...]

    def __str__(self) -> str:
        return f"{_capital(self.text)}; it begins {self.begins}. {_capital(self.do)}."


def _capital(text: str) -> str:
    """With a capital, where it begins with a word."""
    first = text.partition(" ")[0].rstrip(",:")
    return text[:1].upper() + text[1:] if first.isascii() and first.isalpha() and first != "normlab" else text


def statements(rows: Sequence[Row], inputs: Inputs, *, dark: bool) -> tuple[Statement, ...]:
    """What leaves its healthy range, grave things first; where values are not finite, what may have led there.

    Args:
        dark: all gradients are 0, and not for a good reason.
    """
    broken = _not_finite(rows, inputs)
    if broken is not None:
        led = _left(rows, range_of("activation_variance"), "high") if inputs.finite else None
        return (broken,) if led is None else (broken, led)
    overflow = _overflow(rows)
    if overflow is not None:
        return (overflow,)
    found = [said for range in RANGES for side in ("high", "low") if (said := _left(rows, range, side)) is not None]
    quantities = {said.quantity for said in found}
    for quantity, other in (("mean_cosine", "stable_rank"), ("sigma", "gradient_factor")):  # the same in other words
        found = [said for said in found if said.quantity != other or quantity not in quantities]
    if dark:
        found.append(_dark(rows))
    return tuple(sorted(found, key=lambda said: not said.grave))


def _left(rows: Sequence[Row], range: Range, side: Side) -> Statement | None:
    values = scaled(rows, range)
    out = [place for place, row in enumerate(rows) if row.marks.get(range.quantity) == side]
    if not out:
        return None
    beyond = [cast(float, values[place]) for place in out]
    worst = max(beyond) if side == "high" else min(beyond)
    known = sum(value is not None for value in values)
    grave = range.grave and (not range.most or 2 * len(out) >= known)
    text = range.wrong[side].format(worst=worst)
    return Statement(
        range.quantity,
        range.title[side],
        f"{text}, {_share(len(out), known)}",
        _begins(rows, out, range),
        _advice(rows, out, range, side),
        grave,
        tuple(rows[place].name for place in out),
    )


def _share(count: int, known: int) -> str:
    return f"at all {known} layers" if count == known > 1 else f"at {count} of {known} layers"


def _begins(rows: Sequence[Row], out: Sequence[int], range: Range) -> str:
    if range.quantity in _BACKWARD:
        return f"on the way back at {_named(rows[out[-1]])}"
    return f"at {_named(rows[out[0]])}"


def _advice(rows: Sequence[Row], out: Sequence[int], range: Range, side: Side) -> str:
    found = range.do[side]
    if all(row.weight is None and row.sigma is None for row in rows):  # nothing that convert could convert
        found = _WITHOUT_NORMS
    if out[0] == 0 and range.quantity in ("mean_cosine", "stable_rank"):
        return f"from the first layer on: is the batch of examples that are alike? If not, {found}"
    return found


def _named(row: Row) -> str:
    if row.name.replace(".", "").isdigit():
        return f"layer {row.name}"
    return row.name or "the model itself"


def _not_finite(rows: Sequence[Row], inputs: Inputs) -> Statement | None:
    forward = [row for row in rows if not (row.came and row.went)]
    backward = [row for row in rows if row.marks.get("gradient_norm") == "nan"]
    if not inputs.finite:
        text = f"there are NaN or infinite values in the batch itself, and in {len(forward)} of {len(rows)} layers"
        do = "clean the data; no other number here means anything. One such batch also spoils running statistics"
        return _broken("values are not finite", text, "in the batch", do, forward)
    if forward:
        first = forward[0]
        begins = f"before {_named(first)}" if not first.came else f"in {_named(first)}, which gets finite values"
        text = f"NaN or infinite values appear, {_share(len(forward), len(rows))}"
        do = "look at the parameters and running statistics there (normlab doctor does), and for overflow"
        return _broken("values are not finite", text, begins, do, forward)
    if backward:
        text = f"gradients are NaN or infinite, {_share(len(backward), len(rows))}; what goes forward is finite"
        begins = f"on the way back at {_named(backward[-1])}"
        do = "look for a square root or a division at 0 behind that layer"
        return _broken("gradients are not finite", text, begins, do, backward)
    return None


def _overflow(rows: Sequence[Row]) -> Statement | None:
    """Values are finite, and their squares are not."""
    out = [row for row in rows if "nan" in (row.marks.get("sigma"), row.marks.get("activation_variance"))]
    if not out:
        return None
    text = f"values are so large that their variance is not finite, {_share(len(out), len(rows))}"
    do = "scale the batch, or what comes before; no other number here means anything"
    return _broken("values are not finite once they are squared", text, f"at {_named(out[0])}", do, out)


def _dark(rows: Sequence[Row]) -> Statement:
    closed = [row for row in rows if row.closed]
    names = tuple(row.name for row in rows)
    if closed:
        do = f"γ is 0 at {_named(closed[-1])}, where nothing is added to what it gives: start it at 1"
    else:
        do = "look for units that are dead, a product with 0, a loss that does not depend on the input, and underflow"
    text = "no gradient comes back: it is 0 at every layer, and no output differs between the examples"
    begins = f"on the way back at {_named(rows[-1])}"
    return Statement("gradient_norm", "no gradient comes back", text, begins, do, True, names)


def _broken(title: str, text: str, begins: str, do: str, rows: Sequence[Row]) -> Statement:
    return Statement("", title, text, begins, do, True, tuple(row.name for row in rows))


def why_healthy(rows: Sequence[Row]) -> str:
    """The numbers by which a network is healthy."""
    parts = [
        _between("activation variance", rows, "activation_variance"),
        _apart(rows),
        _gradients(rows),
        _large(rows),
    ]
    return "; ".join(filter(None, parts)) or "nothing leaves its range"


def _known(rows: Sequence[Row], name: str) -> list[float]:
    return [value for value in judged(rows, range_of(name)) if value is not None and math.isfinite(value)]


def _between(label: str, rows: Sequence[Row], name: str) -> str:
    values = [value for value in _known(rows, name) if value]
    ends = list(dict.fromkeys(f"{value:.2g}" for value in (min(values, default=0), max(values, default=0))))
    return f"the {label} {'stays between' if len(ends) > 1 else 'is'} {' and '.join(ends)}" if values else ""


def _apart(rows: Sequence[Row]) -> str:
    values = _known(rows, "mean_cosine")
    return f"examples are told apart (mean cosine at most {max(values):.2g})" if values else ""


def _gradients(rows: Sequence[Row]) -> str:
    values = [value for value in scaled(rows, range_of("gradient_norm")) if value]
    most = max(values, default=0.0)
    if most > 1.05:
        return f"no gradient is more than {most:.2g} times that of the last layers, per value"
    return "no gradient exceeds that of the last layers, per value" if values else ""


def _large(rows: Sequence[Row]) -> str:
    values = _known(rows, "large_values")
    if not values:
        return ""
    return f"at most {max(values):.1g} of x̂ are beyond 6" if max(values) else "no x̂ is beyond 6"
