"""docs/architecture.md says what is there: its tree is the files, its arrows are the imports."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/architecture.md").read_text()

FOLDERS = (
    "csrc/core",
    "csrc/python",
    "mobync",
    "mobync/_relational",
    "mobync/_sync",
    "mobync/client",
)

# What each part of the package may import of mobync, beside itself.
BASE = {"mobync", "mobync._core", "mobync._extras", "mobync._plain", "mobync.errors"}
BASE |= {"mobync._waiting", "mobync.sync", "mobync.synchronizer", "mobync.types"}
RELATIONAL = {
    f"mobync._relational.{name}"
    for name in (
        *("database_errors", "filled", "read_window", "refused", "rows", "store", "values"),
        "write_order",
    )
} | {"mobync._relational"}
ALLOWED = {
    "mobync._sync": BASE - {"mobync", "mobync.sync"},
    "mobync._relational": BASE - {"mobync", "mobync.sync"},
    "mobync.sqlalchemy": BASE | RELATIONAL,
    "mobync.django": BASE | RELATIONAL | {"mobync._sync.known_devices", "mobync.http.django"},
    "mobync.live": BASE,
    "mobync.clients": BASE
    | {"mobync._sync.attempts", "mobync._sync.client_state", "mobync._sync.devices"}
    | {"mobync._sync.known_devices", "mobync._sync.marks", "mobync._sync.owner_locks"}
    | {"mobync._sync.owner_state"},
    "mobync.http": BASE
    | {"mobync.clients", "mobync.live"}
    | {"mobync._sync.known_devices", "mobync._sync.owner_locks", "mobync._sync.parts"},
    "mobync.client": BASE,
}


def drawn() -> dict[str, set[str]]:
    """By folder what the page's tree has in it."""
    tree = re.search(r"## The tree\n+```\n(.*?)```", PAGE, re.DOTALL)
    assert tree is not None
    found: dict[str, set[str]] = {}
    folder = ""
    for line in tree[1].splitlines():
        name = line.split()[0].removesuffix("/")
        if line.startswith(" "):
            found[folder].add(name)
        else:
            folder = name
            found[folder] = set()
    return found


def there(folder: str) -> set[str]:
    names = set()
    for path in (ROOT / folder).iterdir():
        is_source = path.suffix in (".c", ".h", ".py")
        is_package = path.is_dir() and (path / "__init__.py").exists()
        if is_package or (is_source and not (path.name == "__init__.py" and "/" in folder)):
            names.add(path.name)
    return names


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_tree_of_the_page_is_that_of_the_files(folder: str) -> None:
    assert drawn()[folder] == there(folder)


def test_each_place_that_the_page_names_is_there() -> None:
    for path, names in re.findall(r"\| `([\w/.]+\.(?:c|py))`((?:, `\w+`(?: and `\w+`)?)?)", PAGE):
        text = (ROOT / path).read_text()
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"\b{name}\b", text), f"{path} has no {name}"


def imports(path: Path) -> set[str]:
    """The modules of mobync that a file imports, at its top or further down."""
    package = ".".join(path.relative_to(ROOT).with_suffix("").parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            names = {f"{module}.{alias.name}" for alias in node.names}
            found |= {n if is_module(n) else module for n in names}
    return {name for name in found if name.split(".")[0] == "mobync"}


def is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").exists() or path.with_suffix(".pyi").exists()


@pytest.mark.parametrize("part", ALLOWED)
def test_arrows_run_one_way(part: str) -> None:
    for path in sorted((ROOT / part.replace(".", "/")).rglob("*.py")):
        others = {name for name in imports(path) if not (name + ".").startswith(part + ".")}
        assert others <= ALLOWED[part], f"{path.relative_to(ROOT)} imports too much"


def test_the_core_includes_nothing_of_the_binding() -> None:
    for path in (ROOT / "csrc/core").iterdir():
        included = re.findall(r'#include "([^"]+)"', path.read_text())
        assert all("/" not in name for name in included), path.name


MOST_LINES = 45  # of a function, without its head and its docstring


def python_functions() -> Iterator[tuple[str, int]]:
    for path in sorted((ROOT / "mobync").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                lines = node.end_lineno - body[0].lineno + 1 if body and node.end_lineno else 0
                yield f"{path.relative_to(ROOT)}: {node.name}", lines


def c_functions() -> Iterator[tuple[str, int]]:
    for path in sorted((ROOT / "csrc").rglob("*.c")):
        begin = 0
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if line == "{":
                begin = number
            elif line == "}":
                yield f"{path.relative_to(ROOT)}:{begin}", number - begin - 1


def test_no_function_is_longer_than_a_screen() -> None:
    functions = [*python_functions(), *c_functions()]
    assert len(functions) > 1000
    assert [found for found in functions if found[1] > MOST_LINES] == []
