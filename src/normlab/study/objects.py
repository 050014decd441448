"""Functions, classes and values of the user's own code, by `package.module:name` or `file.py:name`."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle

from normlab.errors import NormlabError, SpecError, nearest
from normlab.registry import parse


def load_object(spec: str, *, kind: str = "object") -> Any:
    """What a spec names; a file is read anew each time, so that a change in it is seen.

    The folder of the file, or the current one, is importable from then on, as if Python had been started there.

    Args:
        kind: what it is to be, for messages.

    Raises:
        SpecError: no such module, file or name, with the nearest one; or it cannot be imported.
    """
    place, _, name = spec.rpartition(":")
    if not (place and name):
        raise SpecError(f"{kind} {spec!r} should read package.module:name or file.py:name")
    is_file = place.endswith(".py") or os.sep in place
    found: Any = _of_file(Path(place), kind) if is_file else _of_module(place, kind)
    for part in name.split("."):
        if not hasattr(found, part):
            close = nearest(part, [known for known in dir(found) if not known.startswith("_")])
            hint = f"; did you mean {close!r}?" if close else ""
            raise SpecError(f"{kind} {spec!r}: {place} has no {part!r}{hint}")
        found = getattr(found, part)
    return found


def call_object(spec: str, *arguments: Any, kind: str = "object") -> Any:
    """What `package.module:function` or `file.py:function(key=value)` returns.

    Raises:
        SpecError: as `load_object`; what it names cannot be called, or raises.
    """
    name, options = split_call(spec, kind)
    function = load_object(name, kind=kind)
    if not callable(function):
        raise SpecError(f"{kind} {name!r} cannot be called: it is {type(function).__name__}")
    return guarded(lambda: function(*arguments, **options), f"{kind} {spec!r}")


def split_call(spec: str, kind: str) -> tuple[str, dict[str, Any]]:
    """`name(key=value)` → name, which may hold dots and colons, and the arguments."""
    name, bracket, rest = spec.strip().partition("(")
    return name.strip(), dict(parse(f"call({rest}", kind=kind).arguments) if bracket else {}


def guarded(make: Callable[[], Any], what: str) -> Any:
    """The result; whatever somebody else's code raises becomes one line.

    Raises:
        SpecError: says what was made, and what it raised.
    """
    try:
        return make()
    except NormlabError:
        raise
    except SystemExit as error:  # which would end ours, with an exit code that says something else
        raise SpecError(f"{what} failed: it called sys.exit({error.code!r})") from error
    except Exception as error:
        raise SpecError(f"{what} failed: {type(error).__name__}: {error}") from error


def _of_module(name: str, kind: str) -> ModuleType:
    _make_importable(Path.cwd())
    try:
        return guarded(lambda: importlib.import_module(name), f"importing {name}")
    except SpecError as error:
        missing = error.__cause__
        if not isinstance(missing, ModuleNotFoundError) or not f"{name}.".startswith(f"{missing.name}."):
            raise
        close = nearest(name, ["timm", "torchvision", *(path.stem for path in Path.cwd().glob("*.py"))])
        hint = f"; did you mean {close!r}?" if close else ""
        raise SpecError(f"{kind}: there is no module {missing.name!r}{hint}") from None


def _of_file(path: Path, kind: str) -> ModuleType:
    if not path.is_file():
        close = nearest(path.name, [file.name for file in path.parent.glob("*.py")])
        hint = f"; did you mean {path.with_name(close).as_posix()!r}?" if close else ""
        raise SpecError(f"{kind}: there is no file {path.as_posix()!r}{hint}")
    path = path.resolve()
    _make_importable(path.parent)
    name = path.stem
    if getattr(sys.modules.get(name), "__file__", str(path)) != str(path):
        name = f"normlab_file_{name}"  # another module of this name is in use
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = module  # dataclasses and pickle look there
    try:
        guarded(partial(spec.loader.exec_module, module), f"importing {path.name}")
        if name != path.stem:  # which worker processes could not import by that name
            cloudpickle.register_pickle_by_value(module)
    except SpecError:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before
        raise
    return module


def _make_importable(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
