"""What a training function is, in a few letters, so that results of older code are not taken for new ones."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import linecache
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, SimpleNamespace
from typing import Any, cast

import numpy as np

from normlab.errors import SpecError

UNSTEADY = ("__doc__", "__firstlineno__")  # of a class: in its source anyway, or other when it is moved
PLAIN = (int, float, complex, bool, str, bytes, type(None))


def identity(function: Callable[..., Any]) -> str:
    """Name and hash of a function: its source, and what it refers to in its own file or in a closure.

    Functions and classes of the same module count with their source, numbers and strings with their value, wherever
    they are: in lists, dicts, sets, arrays, dataclasses, namespaces, defaults, decorated, as methods, in base classes.
    What it imports from other modules does not count, nor what other objects hold: nobody can say where that would end.

    Raises:
        SpecError: no function written with `def` or `lambda`.
    """
    if not isinstance(function, FunctionType):
        raise SpecError(
            f"train={function!r} should be a function written with `def`, whose runs can be recognised another day; "
            "put the values it is bound to into the arms"
        )
    return f"{function.__qualname__}@{fingerprint(function)}"


def fingerprint(value: FunctionType | type) -> str:
    """The hash in `identity`, of a function or a class."""
    return hashlib.sha256("\n".join(_texts(value, value.__module__, set())).encode()).hexdigest()[:12]


def _texts(value: Any, module: str, seen: set[int]) -> Iterator[str]:
    """The texts that stand for a value, those of a function followed by those of what it refers to."""
    if id(value) in seen:
        return
    if _is_plain(value):
        yield repr(value)
        return
    seen.add(id(value))
    if isinstance(value, (FunctionType, type)) and value.__module__ == module:
        yield _source(value) or "\n".join(_code(value.__code__) if isinstance(value, FunctionType) else ())
    for name, inner in _parts(value, module):
        yield from (f"{name}={text}" for text in _texts(inner, module, seen))


def _parts(value: Any, module: str) -> Iterator[tuple[str, Any]]:
    """What a value is made of, or refers to, in a fixed order."""
    if not isinstance(value, (FunctionType, type)):
        yield from _held(value, module)
    elif value.__module__ != module:
        return
    elif isinstance(value, FunctionType):
        yield from _references(value)
    else:
        named = [(name, inner) for name, inner in vars(value).items() if name not in UNSTEADY]
        yield from sorted(named, key=lambda item: item[0])
        yield from (("base", base) for base in value.__bases__)


def _held(value: Any, module: str) -> Iterator[tuple[str, Any]]:
    """What an object holds, of those kinds that are looked into."""
    if isinstance(value, (dict, list, tuple)):
        items = cast(Any, value.items() if isinstance(value, dict) else enumerate(value))
        yield from (pair for key, inner in items for pair in (("key", key), ("value", inner)))
    elif isinstance(value, (set, frozenset)):
        yield from (("member", text) for text in sorted("\n".join(_texts(v, module, set())) for v in cast(Any, value)))
    elif isinstance(value, SimpleNamespace):
        yield from sorted(vars(value).items())
    elif isinstance(value, (np.ndarray, np.generic)):
        yield "array", (str(value.dtype), value.shape, value.tolist() if value.dtype.hasobject else value.tobytes())
    elif isinstance(value, property):
        yield from (("get", value.fget), ("set", value.fset))
    elif isinstance(value, functools.cached_property):
        yield "func", value.func
    elif isinstance(value, functools.partial):
        yield from (("func", value.func), ("args", value.args), ("keywords", value.keywords))
    elif dataclasses.is_dataclass(value):
        yield "type", type(value)
        yield from ((field.name, getattr(value, field.name, None)) for field in dataclasses.fields(value))
    elif hasattr(type(value), "__wrapped__") or "__wrapped__" in getattr(value, "__dict__", ()):
        yield "wrapped", value.__wrapped__  # static methods and class methods, what lru_cache and the like give


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(inner) for pair in value.items() for inner in pair)
    return isinstance(value, PLAIN) or (isinstance(value, (list, tuple)) and all(map(_is_plain, value)))


def _references(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Globals that the code names, values of its closure and of its defaults, in a fixed order."""
    inside = sorted({name for code in _codes(function.__code__) for name in code.co_names})
    yield from ((name, function.__globals__[name]) for name in inside if name in function.__globals__)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not bound yet
            continue
    yield "defaults", function.__defaults__
    if function.__kwdefaults__:
        yield "keyword defaults", function.__kwdefaults__


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _code(code: CodeType) -> Iterator[str]:
    """What a function does, where its source cannot be had (typed into an interpreter)."""
    for part in _codes(code):
        yield part.co_code.hex() + repr(part.co_names)
        yield from (repr(constant) for constant in part.co_consts if not isinstance(constant, CodeType))


def _source(value: Any) -> str:
    if isinstance(value, FunctionType) and not linecache.getlines(value.__code__.co_filename):
        return ""  # inspect would take the same lines of another file that calls itself __main__
    try:
        # of the code itself: inspect takes a function made by functools.wraps for the one inside
        return inspect.getsource(value.__code__ if isinstance(value, FunctionType) else value)
    except (OSError, TypeError):
        return ""
