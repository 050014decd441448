"""Spec strings name registered things, and errors list the choices."""

from __future__ import annotations

from typing import Literal

import pytest

from normlab.errors import NormlabError, SpecError, UnknownName, nearest
from normlab.registry import Call, Registry, parse

THINGS: Registry[tuple] = Registry("thing")


@THINGS.register("pair")
def pair(size: int, left: float = 1.0, kind: Literal["a", "b"] = "a") -> tuple:
    return size, left, kind


@THINGS.register("single")
class Single(tuple):
    def __new__(cls, value: int = 1):
        return super().__new__(cls, (value,))


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("name", Call("name", {})),
        (" name ", Call("name", {})),
        ("name()", Call("name", {})),
        (
            "name(a=1, b='x', c=[1, 2], d=None, e=-0.5)",
            Call("name", {"a": 1, "b": "x", "c": [1, 2], "d": None, "e": -0.5}),
        ),
    ],
)
def test_parse(text, call):
    assert parse(text) == call
    assert parse(str(call)) == call


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "a.b",
        "name(1)",
        "name(**{})",
        "name(a=f())",
        "name(a=b)",
        "name(a=1",
        "a + b",
        "name(a=1)(b=2)",
        "name(a=1, a=2)",
    ],
)
def test_what_is_no_spec_is_refused_with_the_form(text):
    with pytest.raises(SpecError, match="should read name or name"):
        parse(text)


def test_create_fills_in_defaults_and_what_is_given():
    assert THINGS.create("pair(left=2)", size=3) == (3, 2.0, "a")
    assert THINGS.create("pair(size=3, kind='b')") == (3, 1.0, "b")
    assert list(THINGS) == ["pair", "single"]
    assert "pair" in THINGS
    assert "pear" not in THINGS


def test_equal_calls_read_the_same():
    assert str(THINGS.parse("pair(left=1)", given=("size",))) == str(THINGS.parse("pair", given=("size",)))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("pear(size=1)", "unknown thing 'pear'; did you mean 'pair'. Known: pair, single"),
        ("pair(size=1, lef=2)", "unknown argument of thing 'pair': 'lef'; did you mean 'left'"),
        ("pair", "thing 'pair' lacks size"),
        ("pair(size='3')", "thing pair: size='3' should be a valid integer"),
        ("pair(size=3, kind='c')", "kind='c' should be 'a' or 'b'"),
    ],
)
def test_calls_that_cannot_be(spec, message):
    with pytest.raises(SpecError, match=message) as caught:
        THINGS.create(spec)
    assert isinstance(caught.value, NormlabError)
    assert isinstance(caught.value, ValueError)


def test_unknown_names_carry_the_choices():
    with pytest.raises(UnknownName) as caught:
        THINGS["pear"]
    assert (caught.value.name, caught.value.known) == ("pear", ["pair", "single"])


def test_names_are_registered_once():
    with pytest.raises(AssertionError, match="'pair' registered twice"):
        THINGS.register("pair")(pair)


@pytest.mark.parametrize(("name", "expected"), [("Grup", "group"), ("group", "group"), ("xyz", None)])
def test_nearest(name, expected):
    assert nearest(name, ["group", "batch"]) == expected
