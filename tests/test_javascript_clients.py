"""The npm package of clients/javascript: its own tests, on node, and what would be published.

Its tests start servers of their own, with this Python.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "clients" / "javascript"
TESTS = sorted(PACKAGE.glob("test/*.test.js"))
TIMEOUT_S = 500


def run(*command: str) -> str:
    """What a command prints; fails with it if the command does."""
    assert shutil.which(command[0]), f"{command[0]} is missing: install Node 20 or later with npm"
    done = subprocess.run(
        command,
        cwd=PACKAGE,
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-20_000:]}\n{done.stderr[-5_000:]}"
    return done.stdout


@pytest.mark.parametrize("test", TESTS, ids=lambda path: path.name)
def test_the_tests_of_the_package_pass(test: Path) -> None:
    said = run("node", "--test", "--test-reporter=tap", str(test))

    counts = dict(re.findall(r"^# (pass|fail|skipped|todo) (\d+)$", said, re.MULTILINE))
    assert int(counts.pop("pass")) > 0
    assert set(counts.values()) == {"0"}


def test_the_package_holds_its_modules_and_their_types_and_nothing_else() -> None:
    packed = json.loads(run("npm", "pack", "--dry-run", "--json"))[0]
    names = {file["path"] for file in packed["files"]}

    modules = {path.name for path in PACKAGE.glob("*.js")}
    types = {path.removesuffix(".js") + ".d.ts" for path in modules}
    assert names == modules | types | {"package.json", "README.md"}


def test_the_package_exports_what_is_there_and_depends_on_nothing() -> None:
    package = json.loads((PACKAGE / "package.json").read_text())

    assert package["exports"]
    for name, targets in package["exports"].items():
        assert targets["default"] == f"{name}.js"
        assert targets["types"] == f"{name}.d.ts"
        assert all((PACKAGE / target).is_file() for target in targets.values())
    assert "dependencies" not in package
