"""What the figures were taken on."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "mobync",
    "sqlalchemy",
    "psycopg",
    "pymysql",
    "orjson",
    "pycrdt",
    "loro",
    "y-py",
    "flask",
    "gunicorn",
    "accordsync-server",
)

QUIET_LOAD = 0.7  # processes that run or wait to, averaged over a minute
LONGEST_WAIT_S = 40  # so that its sections fit in twenty minutes with their waits


def wait_for_quiet() -> tuple[float, int]:
    """Wait until the load average is low, not for ever; returns it, and the seconds waited."""
    begin = time.monotonic()
    while os.getloadavg()[0] > QUIET_LOAD and time.monotonic() - begin < LONGEST_WAIT_S:
        time.sleep(1)
    return os.getloadavg()[0], round(time.monotonic() - begin)


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
