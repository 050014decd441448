"""Imports point one way, heavy packages wait until they are needed, and `import normlab` is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import normlab

SRC = Path(normlab.__file__).parent
FILES = sorted(SRC.rglob("*.py"))
ORDER = {  # a package imports itself and those of smaller number
    "errors": 0,
    "registry": 1,
    "seeding": 1,
    "atomic": 1,
    "page": 1,
    "functional": 2,
    "layers": 3,
    "surgery": 4,
    "recipes": 5,
    "optim": 5,
    "probes": 5,
    "inputs": 6,
    "screen": 7,
    "doctor": 7,
    "inspect": 7,
    "landscape": 7,
    "integrations": 7,
    "study": 8,
    "cli": 9,
}
INSIDE_FUNCTIONS = {"timm", "torchvision", "ray", "matplotlib", "datasets"}


def module_of(file: Path) -> str:
    parts = file.relative_to(SRC.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def targets(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        module = node.module or ""
        return [f"{module}.{alias.name}" for alias in node.names] if module == "normlab" else [module]
    return []


def imports(file: Path) -> list[str]:
    """Everything that the file imports, anywhere."""
    return [name for node in ast.walk(ast.parse(file.read_text())) for name in targets(node)]


def imports_on_load(file: Path) -> list[str]:
    """What the file imports when it is imported: not inside functions, not under TYPE_CHECKING."""

    def visit(nodes: list[ast.stmt]) -> Iterator[str]:
        for node in nodes:
            yield from targets(node)
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                yield from visit(node.orelse)
                continue
            for field in ("body", "orelse", "finalbody"):
                yield from visit(getattr(node, field, []))
            for handler in getattr(node, "handlers", []):
                yield from visit(handler.body)

    return list(visit(ast.parse(file.read_text()).body))


def reached(start: str, found: dict[str, list[str]]) -> set[str]:
    """Modules outside normlab that importing `start` imports, by what the sources say."""
    seen: set[str] = set()
    todo = [start]
    outside: set[str] = set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        if name.partition(".")[0] != "normlab":
            outside.add(name.partition(".")[0])
            continue
        parent = name.rpartition(".")[0]
        todo += [parent] if parent else []
        todo += found.get(name, [])
    return outside


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_imports_point_one_way(file):
    parts = module_of(file).split(".")
    if len(parts) == 1 or parts[1] == "__main__":
        return  # the front door names everybody
    assert parts[1] in ORDER, f"give {parts[1]} a place in ORDER"
    for target in imports(file):
        if target.startswith("normlab."):
            other = target.split(".")[1]
            assert other == parts[1] or ORDER.get(other, -1) < ORDER[parts[1]], f"{module_of(file)} imports {target}"


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_heavy_packages_are_imported_where_they_are_used(file):
    heavy = {name.partition(".")[0] for name in imports_on_load(file)} & INSIDE_FUNCTIONS
    assert not heavy, f"{module_of(file)} imports {', '.join(heavy)} outside a function"


def test_only_study_models_knows_timm():
    assert {module_of(file) for file in FILES if any(n.split(".")[0] == "timm" for n in imports(file))} <= {
        "normlab.study.models.libraries"
    }


@pytest.mark.parametrize("start", ["normlab", "normlab.study", "normlab.study.stats", "normlab.cli", "normlab.seeding"])
def test_no_torch_by_the_sources(start):
    found = {module_of(file): imports_on_load(file) for file in FILES}
    inside = (
        [name for name in found if name == start or name.startswith(f"{start}.")]
        if start.endswith("stats")
        else [start]
    )
    for name in inside:
        assert "torch" not in reached(name, found), f"{name} loads torch"


@pytest.mark.parametrize("module", ["normlab", "normlab.study.stats", "normlab.cli"])
def test_no_torch_in_fact(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
