"""Names to objects: `"revisited(scale=0.1)"` → a call of the function registered as `revisited`."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, get_args, get_type_hints

from normlab.errors import SpecError, UnknownName, require

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Call:
    """A parsed spec string: a name and its keyword arguments, all of them Python literals."""

    name: str
    arguments: Mapping[str, Any]

    def __str__(self) -> str:
        inside = ", ".join(f"{key}={value!r}" for key, value in self.arguments.items())
        return f"{self.name}({inside})" if inside else self.name


def parse(text: str, *, kind: str = "spec") -> Call:
    """Read `name` or `name(key=literal, ...)`.

    Raises:
        SpecError: anything else; the message shows the form.
    """
    require(text, str, f"a {kind} is named by a string, name or name(key=value, ...)")
    form = f"{kind} {text!r} should read name or name(key=value, ...)"
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise SpecError(f"{form}: {error.msg}") from None
    if isinstance(node, ast.Name):
        return Call(node.id, {})
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)) or node.args:
        raise SpecError(form)
    arguments: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg is None or keyword.arg in arguments:
            raise SpecError(f"{form}, each key once")
        try:
            arguments[keyword.arg] = ast.literal_eval(keyword.value)
        except ValueError:
            got = ast.unparse(keyword.value)
            raise SpecError(f"{form}; {keyword.arg}={got} is not a number, string, list or True/False") from None
    return Call(node.func.id, arguments)


class Registry(Generic[T]):
    """Functions or classes by name; called by name or by spec string.

    Args:
        kind: what the entries are, for messages: "norm", "recipe", "dataset".
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Callable[..., T]] = {}

    def register(self, name: str) -> Callable[[F], F]:
        """Decorator: file the decorated function or class under `name`."""

        def add(entry: F) -> F:
            assert name not in self._entries, f"{self.kind} {name!r} registered twice"
            self._entries[name] = entry
            return entry

        return add

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __getitem__(self, name: str) -> Callable[..., T]:
        if name not in self._entries:
            raise UnknownName(self.kind, name, self._entries)
        return self._entries[name]

    def parse(self, spec: str, *, given: tuple[str, ...] = ()) -> Call:
        """Check a spec string against the signature it names.

        Args:
            spec: `name` or `name(key=value, ...)`.
            given: parameters that the caller will pass itself.

        Returns:
            The call with every default written out and 1 turned into 1.0 where a float is meant, so that equal calls
            read the same.

        Raises:
            SpecError: an argument that is unknown, missing, or of another type than the entry declares.
        """
        call = parse(spec, kind=self.kind)
        hints = self.hints(call.name)
        parameters = {k: p for k, p in _parameters(self[call.name]).items() if k not in given}
        for key in call.arguments:
            if key not in hints or key in given:
                raise UnknownName(f"argument of {self.kind} {call.name!r}:", key, set(hints) - set(given))
        missing = [k for k, p in parameters.items() if p.default is p.empty and k not in call.arguments]
        if missing:
            raise SpecError(f"{self.kind} {spec!r} lacks {', '.join(missing)}")
        filled = {**{k: p.default for k, p in parameters.items()}, **call.arguments}
        return Call(call.name, {k: self._typed(call.name, k, v, hints[k]) for k, v in sorted(filled.items())})

    def hints(self, name: str) -> dict[str, Any]:
        """The entry's parameters and their types, also those declared together as `**options: Unpack[...]`."""
        entry = self[name]
        declared = get_type_hints(entry.__init__ if isinstance(entry, type) else entry)
        parameters = inspect.signature(entry).parameters.values()
        found = {p.name: declared.get(p.name, Any) for p in parameters if p.kind is not p.VAR_KEYWORD}
        for p in parameters:
            if p.kind is p.VAR_KEYWORD:
                found |= get_type_hints(get_args(declared[p.name])[0])
        return found

    def _typed(self, name: str, key: str, value: Any, hint: Any) -> Any:
        """The value as its annotation says, without guessing: "3" is no number."""
        from pydantic import ConfigDict, TypeAdapter, ValidationError

        try:
            types = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
            return types.validate_python(value, strict=True)
        except ValidationError as error:
            should = error.errors()[0]["msg"].removeprefix("Input ")
            raise SpecError(f"{self.kind} {name}: {key}={value!r} {should}") from None

    def create(self, spec: str, **given: Any) -> T:
        """Call what `spec` names, with the arguments in `spec` and those `given`."""
        call = self.parse(spec, given=tuple(given))
        hints = self.hints(call.name)
        for key in given:
            if key not in hints:
                raise UnknownName(f"argument of {self.kind} {call.name!r}:", key, hints)
        return self[call.name](**given, **call.arguments)


def _parameters(entry: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return {k: p for k, p in inspect.signature(entry).parameters.items() if p.kind is not p.VAR_KEYWORD}
