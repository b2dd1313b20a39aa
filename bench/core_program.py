"""Builds and runs core_bench.c, the merge without Python."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path

from workload import Diff

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "bench"

SyncCost = dict[str, int]  # what core_bench prints of one device


def build() -> Path:
    """Compile it, as an optimized build of the extension is compiled."""
    BUILD.mkdir(parents=True, exist_ok=True)
    program = BUILD / "core_bench"
    sources = [Path(__file__).with_name("core_bench.c"), *sorted((ROOT / "csrc/core").glob("*.c"))]
    flags = ["-std=c11", "-O3", "-g", "-DNDEBUG", f"-I{ROOT / 'csrc/core'}"]
    subprocess.run(["gcc", *flags, *map(str, sources), "-o", str(program), *_cjson()], check=True)
    return program


def _cjson() -> list[str]:
    command = ["pkg-config", "--cflags", "--libs", "libcjson"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def write_requests(requests: Iterable[list[Diff]], path: Path) -> None:
    """Write what each device sends, a line each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(request) + "\n" for request in requests))


def run(program: Path, requests: Path, repeats: int = 1) -> list[SyncCost]:
    """Let the devices of a file sync one after the other."""
    command = [str(program), str(requests), str(repeats)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def merge_s(costs: Iterable[SyncCost]) -> float:
    """Seconds from diffs to outcomes: the json_data read and checked, recognized, merged."""
    nanoseconds = sum(c["check_ns"] + c["recognize_ns"] + c["merge_ns"] for c in costs)
    return nanoseconds / 1e9
