"""Study files: TOML → spec models, unknown keys refused with the nearest name."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from normlab.errors import SpecError, unknown_text
from normlab.study.job import ArmSpec
from normlab.study.spec import OwnStudySpec, StudySpec

M = TypeVar("M", bound=BaseModel)

DECISIVE = (
    "data.",
    "model.",
    "train",
    "arms.",
    "common.",
    "function",
    "metric",
)  # what published numbers are numbers of


def read_toml(path: Path, overrides: tuple[str, ...] = ()) -> dict[str, Any]:
    """A study file as nested dicts, `key.path=value` overrides applied; the name defaults to the file's stem.

    Raises:
        SpecError: no such file, not TOML, an override that is not `key=value`.
    """
    try:
        tree: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"cannot read the study file {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SpecError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{path} is not TOML: {error}") from None
    for override in overrides:
        merge(tree, parse_override(override))
    if isinstance(tree.get("published"), dict):
        tree["published"]["changed"] = [text.strip() for text in overrides if text.startswith(DECISIVE)]
    return {"name": path.stem, **tree}


def parse_override(text: str) -> dict[str, Any]:
    """`train.epochs=5` → `{"train": {"epochs": 5}}`; what is no TOML value is taken as a string."""
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise SpecError(f"--set {text!r} should read key.path=value, as in --set train.epochs=5")
    for written in (value, '"' + value.strip().replace("\\", "\\\\").replace('"', '\\"') + '"'):
        try:
            return tomllib.loads(f"{key} = {written}")
        except tomllib.TOMLDecodeError:
            continue
    raise SpecError(f"--set {text!r}: {key!r} is no key of a study file")


def merge(tree: dict[str, Any], change: Mapping[str, Any]) -> None:
    """Lay `change` over `tree`, table by table, in place."""
    for key, value in change.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            merge(tree[key], value)
        else:
            tree[key] = value


def load(path: Path, overrides: tuple[str, ...] = ()) -> StudySpec | OwnStudySpec:
    """Read and check a study file; one whose `train` is a text has a training function of its own.

    Raises:
        SpecError: each fault with its key's path, the value that came, and what would do.
    """
    tree = read_toml(path, overrides)
    model = OwnStudySpec if isinstance(tree.get("train"), str) else StudySpec
    return validate(model, tree, where=f"{path}: ")


def validate(model: type[M], tree: Mapping[str, Any], *, where: str = "") -> M:
    """`model.model_validate` with errors a user can act on; `where` goes in front of each line."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        lines = [where + _explain(model, dict(fault)) for fault in error.errors()]
        raise SpecError("\n".join(lines)) from None


def _explain(model: type[BaseModel], fault: dict[str, Any]) -> str:
    location = [str(part) for part in fault["loc"]]
    path, value = ".".join(location), fault["input"]
    match fault["type"]:
        case "extra_forbidden":
            table = ".".join(location[:-1])
            inside = f" in [{table}]" if table else ""
            return unknown_text("key" + inside, location[-1], _fields_at(model, location[:-1]))
        case "missing":
            return f"{path} is missing"
        case "value_error":
            text = str(fault["ctx"]["error"])
            return f"{path}: {value!r}: {text}" if path else text
        case "literal_error":
            known = [word.strip(" '") for word in fault["ctx"]["expected"].replace(" or ", ", ").split(",")]
            return f"{path}: {unknown_text('value', str(value), known)}"
        case _:
            message = fault["msg"].removeprefix("Value error, ")
            wanted = message.partition(" should ")[2].replace(" after validation", "") or f"be {message}"
            return f"{path}: got {value!r} ({type(value).__name__}), should {wanted}"


def _fields_at(model: type[BaseModel], location: list[str]) -> list[str]:
    """The keys that the table at `location` may have."""
    fields: Mapping[str, Any] = model.model_fields
    for part in location:
        annotation = fields[part].annotation if part in fields else ArmSpec
        tables = [a for a in (annotation, *get_args(annotation)) if isinstance(a, type) and issubclass(a, BaseModel)]
        if tables:
            fields = tables[0].model_fields
    return sorted(fields)
