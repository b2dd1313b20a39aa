"""What the figures were taken on."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "mobync",
    "sqlalchemy",
    "psycopg",
    "orjson",
    "pycrdt",
    "loro",
    "y-py",
    "flask",
    "gunicorn",
)


def described() -> dict[str, Any]:
    """The machine, the versions and the command."""
    return {
        "machine": f"{os.cpu_count()} cores, {_processor()}, {_memory_gib()} GiB, "
        f"{platform.system()} {platform.release().split('-')[0]}",
        "versions": {"python": platform.python_version(), **_packages()},
        "compiler": _first_line("gcc", "--version"),
        "postgresql": _first_line("psql", "--version"),
        "command": " ".join(["python", "bench/" + Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.machine()


def _memory_gib() -> int:
    pages: int = os.sysconf("SC_PHYS_PAGES")
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**30)


def _packages() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _first_line(*command: str) -> str | None:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=True
        ).stdout.splitlines()[0]
    except (FileNotFoundError, subprocess.CalledProcessError, IndexError):
        return None
