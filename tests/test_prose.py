"""The words that CONTRIBUTING.md advises against are in no page, docstring or comment."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parents[1]
CONTRIBUTING = (HOME / "CONTRIBUTING.md").read_text(encoding="utf-8")

Line = tuple[int, str]


def words(table: int) -> dict[str, str]:
    """What not to write, by a table of the section "English", and what to write for it."""
    section = CONTRIBUTING.split("## English")[1]
    tables = re.findall(r"^\| Not \| But \|\n\|---\|---\|\n((?:\|.*\n)+)", section, re.M)
    found = {}
    for row in tables[table].splitlines():
        bad, good = row.strip("| ").split(" | ")
        found |= dict.fromkeys(re.findall(r"`([^`]+)`", bad), good)
    return found


def pattern(bad: dict[str, str]) -> re.Pattern[str]:
    """Words as they stand, across the ends of lines, too."""
    each = [re.escape(word).replace(r"\ ", r"\s+") for word in bad]
    each = [word + (r"\b" if word[-1].isalpha() else "") for word in each]
    return re.compile(rf"\b(?:{'|'.join(each)})", re.IGNORECASE)


EVERYWHERE = pattern(words(0))
IN_PAGES = pattern(words(0) | words(1))


def prose_of_page(path: Path) -> str:
    """A page without code; lines stay where they are."""
    text = path.read_text(encoding="utf-8")
    for code in (r"^```.*?^```$", r"`[^`\n]*`"):
        text = re.sub(code, lambda found: re.sub(r"[^\n]", "_", found[0]), text, flags=re.M | re.S)
    return text


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node, clean=False)
            if text is not None:
                yield node.body[0].lineno, text
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if comment := re.search(r"(?:^|\s)#\s(.*)$", line):
            yield number, comment[1]


def comments(path: Path) -> Iterator[tuple[int, str]]:
    text = path.read_text(encoding="utf-8")
    for found in re.finditer(r"/\*.*?\*/", text, re.S):
        # The stars at the beginning of lines are no words.
        yield text.count("\n", 0, found.start()) + 1, re.sub(r"\n \*", "\n", found[0])


def misses(found: re.Pattern[str], first: int, text: str) -> list[Line]:
    return [
        (first + text.count("\n", 0, word.start()), " ".join(word[0].split()))
        for word in found.finditer(text)
    ]


PAGES = [
    *(HOME / name for name in ("README.md", "CHANGELOG.md", "SECURITY.md", "CODE_OF_CONDUCT.md")),
    *HOME.glob("docs/**/*.md"),
    *HOME.glob("examples/*/README.md"),
    HOME / "clients/javascript/README.md",
]
PYTHON = sorted((HOME / "mobync").rglob("*.py"))
C = sorted((HOME / "csrc").rglob("*.[ch]"))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(HOME)))
def test_a_page_is_in_plain_words(path: Path) -> None:
    assert misses(IN_PAGES, 1, prose_of_page(path)) == []


@pytest.mark.parametrize("path", [*PYTHON, *C], ids=lambda path: str(path.relative_to(HOME)))
def test_docstrings_and_comments_are_in_plain_words(path: Path) -> None:
    read = docstrings if path.suffix == ".py" else comments
    assert [miss for first, text in read(path) for miss in misses(EVERYWHERE, first, text)] == []


def test_the_words_are_found() -> None:
    assert misses(IN_PAGES, 1, "A row that\nwas made anew, of\nwhich it has not.") == [
        (2, "anew"),
        (2, "of which"),
        (3, "has not."),
    ]
    assert misses(IN_PAGES, 1, "It has not synced, and mendacity is no repair.") == []
    assert len(words(0)) > 20
