"""Writes the licences of the packages that esbuild bundled, so that a bundle can be handed on.

python .ci/todo_licences.py META.json LICENSES.txt     in the directory that has node_modules
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

OWN = "mobync"
PACKAGE = re.compile(r"node_modules/(?:@[^/]+/)?[^/]+")


def main() -> None:
    meta, target = map(Path, sys.argv[1:])
    inputs = json.loads(meta.read_text())["inputs"]
    packages = {found[0] for each in inputs if (found := PACKAGE.match(each))}
    told = [described(Path(each)) for each in sorted(packages) if Path(each).name != OWN]
    texts = {licence for _, licence, text in told if text}
    for name, licence, text in told:
        if not text and licence not in texts:
            sys.exit(
                f"{name} brings no text of its licence, {licence}, and no other package has it"
            )
    target.write_text("\n\n".join(section(*each) for each in told))


def described(package: Path) -> tuple[str, str, str]:
    """The name of a package, its licence by name, and the text of that, empty if it brings none."""
    about = json.loads((package / "package.json").read_text())
    author = about.get("author", "")
    author = author if isinstance(author, str) else author.get("name", "")
    files = sorted(each for each in package.iterdir() if re.match(r"licen[cs]e", each.name, re.I))
    text = files[0].read_text(encoding="utf-8").strip() if files else ""
    return f"{about['name']} {about['version']} ({author})", about["license"], text


def section(name: str, licence: str, text: str) -> str:
    without = f"The package brings no text of it; {licence} stands at another package of this list."
    return f"==== {name}, bundled in todo.js: {licence}\n\n{text or without}"


if __name__ == "__main__":
    main()
