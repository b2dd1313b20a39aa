"""Checks that need a process of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ISOLATED = Path(__file__).parent / "isolated"


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_script(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ISOLATED, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_path_through_the_extension_leaks() -> None:
    run_script("refleaks.py")


def test_memory_does_not_grow_with_the_number_of_applies() -> None:
    run_script("rss.py", "50000")  # enough that one small object of each would go over its bound


def test_every_module_imports_without_those_that_windows_lacks() -> None:
    run(
        """
import pkgutil, sys
from django.conf import settings
sys.modules.update(dict.fromkeys(("resource", "fcntl", "pwd", "grp", "termios")))
settings.configure(INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth",
                                   "django.contrib.admin", "mobync.django"])
import django
django.setup()
import mobync
for module in pkgutil.walk_packages(mobync.__path__, "mobync."):
    __import__(module.name)
"""
    )


def test_the_module_is_freed_and_made_anew() -> None:
    run(
        """
import gc, sys, weakref
import mobync._core as first
kind, merge = first.Mobync, first.merge
del sys.modules["mobync._core"], first
import mobync._core as second
assert second.Mobync is not kind
assert second.merge([], []) == merge([], []) == ([], [])
alive = weakref.ref(second)
second.Compaction().piece([], "o", 0, 1)
del sys.modules["mobync._core"], sys.modules["mobync"]._core, second
gc.collect()
assert alive() is None
"""
    )


OWN_GIL_REFUSED = """
import sys
if sys.version_info >= (3, 13):
    import _interpreters
    failed = _interpreters.exec(_interpreters.create("isolated"), "import mobync._core")
    assert failed is not None and "does not support loading" in failed.formatted, failed
elif sys.version_info >= (3, 12):
    import _xxsubinterpreters as interpreters
    try:
        interpreters.run_string(interpreters.create(isolated=True), "import mobync._core")
    except interpreters.RunFailedError as refused:
        assert "does not support loading" in str(refused), refused
    else:
        raise AssertionError("was not refused")
"""

SHARED_GIL_WORKS = """
import sys
code = "import mobync; assert mobync.merge([], []) == ([], [])"
if sys.version_info >= (3, 13):
    import _interpreters
    assert _interpreters.exec(_interpreters.create("legacy"), code) is None
else:
    import _xxsubinterpreters as interpreters
    interpreters.run_string(interpreters.create(isolated=False), code)
"""


@pytest.mark.parametrize("code", [OWN_GIL_REFUSED, SHARED_GIL_WORKS])
def test_subinterpreters_work_or_are_refused_cleanly(code: str) -> None:
    run(code)
