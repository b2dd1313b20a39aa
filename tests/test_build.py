"""setup.py: who asks for cJSON, and what is said where it is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parents[1]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy, since setuptools writes beside setup.py."""
    copy = tmp_path / "source"
    copy.mkdir()
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(HOME / name, copy)
    built = shutil.ignore_patterns("*.so", "__pycache__")
    for name in ("csrc", "mobync"):
        shutil.copytree(HOME / name, copy / name, ignore=built)
    return copy


def setup(source: Path, *commands: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "setup.py", "-q", *commands],
        cwd=source,
        env={**os.environ, "CFLAGS": "-O0", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_sdist_needs_no_cjson(source: Path) -> None:
    done = setup(source, "sdist", PKG_CONFIG="/nowhere/pkg-config")
    assert done.returncode == 0, done.stderr
    assert len(list(source.glob("dist/mobync-*.tar.gz"))) == 1


def test_a_wheel_is_linked_to_cjson_whatever_else_the_run_makes(source: Path) -> None:
    done = setup(source, "sdist", "bdist_wheel")
    assert done.returncode == 0, done.stderr
    (wheel,) = source.glob("dist/*.whl")
    zipfile.ZipFile(wheel).extractall(source / "installed")
    merge = "import mobync; print(mobync.merge([], []), mobync.__file__)"
    used = subprocess.run(
        [sys.executable, "-c", merge],
        cwd=source / "installed",
        capture_output=True,
        text=True,
        check=False,
    )
    assert "installed" in used.stdout, used.stderr


@pytest.mark.parametrize("place", ["/nowhere/pkg-config", "/", "/etc/passwd", "false"])
def test_a_build_without_cjson_says_what_to_install(source: Path, place: str) -> None:
    done = setup(source, "sdist", "build_ext", PKG_CONFIG=place, MOBYNC_LDFLAGS="")
    assert done.returncode != 0
    assert f"mobync needs the C library cJSON, and {expected(place)}" in done.stderr
    assert "apt-get install libcjson-dev pkg-config" in done.stderr
    assert "Traceback" not in done.stderr


def expected(place: str) -> str:
    if place == "false":
        return "false does not find it (libcjson)"
    return f"there is no {place} to find it"


def test_a_checkout_that_is_installed_is_found_from_the_directory_beside_it(source: Path) -> None:
    """Where ``mobync`` is the checkout itself, which Python takes for a package without files.

    It does so before it asks a finder of setuptools, but after it has looked at all paths.
    """
    done = setup(source, "editable_wheel", "--dist-dir", "dist")
    assert done.returncode == 0, done.stderr

    (wheel,) = source.glob("dist/*.whl")
    with zipfile.ZipFile(wheel) as packed:
        (found_by,) = [name for name in packed.namelist() if name.startswith("__editable__")]
        assert packed.read(found_by).decode().strip() == str(source)
    assert list(source.glob("mobync/_core.*.so"))
