"""Counts instructions with callgrind: the same on a busy machine as on an idle one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

FIXED_APPLY = Path(__file__).with_name("fixed_apply.py")
FEW, MORE = 2, 12  # times; what they differ by is without Python's start

# " 46,096,504 ( 8.71%)  csrc/python/request.c:begin_sync [/somewhere/_core.so]"
_LINE = re.compile(r"^\s*([\d,]+) \([ \d.]+%\)\s+(\S*):(\S+)(?: \[(.*)\])?$")


class Spent(NamedTuple):
    """What one function took."""

    instructions: int
    function: str
    file: str  # of its source, "???" if not known
    library: str  # or program, "" if not known

    @property
    def is_ours(self) -> bool:
        """Whether it is of the core or the binding: not of Python, cJSON or the C library."""
        return "csrc" in Path(self.file).parts  # callgrind_annotate shortens some paths


def our_instructions(command: Sequence[str]) -> int:
    """What our own functions take in a command; the same with another Python or C library."""
    return _sum(_ours(functions(command)))


def apply_instructions(how: str) -> tuple[int, int]:
    """Of one fixed apply: all, and what our own functions take."""
    few, more = (functions(_fixed_apply(how, times)) for times in (FEW, MORE))
    return (
        (_sum(more) - _sum(few)) // (MORE - FEW),
        (_sum(_ours(more)) - _sum(_ours(few))) // (MORE - FEW),
    )


def step_instructions(how: str) -> dict[str, int]:
    """Of one fixed apply, by function; what a function calls is counted with it."""
    few, more = (_inclusive(_fixed_apply(how, times)) for times in (FEW, MORE))
    return {name: (more[name] - few.get(name, 0)) // (MORE - FEW) for name in more}


def _fixed_apply(how: str, times: int) -> list[str]:
    return [sys.executable, str(FIXED_APPLY), how, str(times)]


def _sum(spent: Sequence[Spent]) -> int:
    return sum(function.instructions for function in spent)


def _ours(spent: Sequence[Spent]) -> list[Spent]:
    return [function for function in spent if function.is_ours]


def _inclusive(command: Sequence[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for spent in functions(command, "--inclusive=yes"):
        # A function stands once for each file that some of it was inlined from.
        counts[spent.function] = max(spent.instructions, counts.get(spent.function, 0))
    return counts


def functions(command: Sequence[str], *options: str) -> list[Spent]:
    """What each function takes in a command, without what it calls unless options say so."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "callgrind"
        subprocess.run(
            ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", *command],
            env={**os.environ, "PYTHONHASHSEED": "0"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        annotate = ["callgrind_annotate", "--threshold=100", "--auto=no", *options, str(out)]
        printed = subprocess.run(annotate, capture_output=True, text=True, check=True).stdout
    return list(_read(printed))


def _read(printed: str) -> Iterator[Spent]:
    for line in printed.splitlines():
        match = _LINE.match(line)
        if match:
            count, file, function, library = match.groups()
            name = "without a name" if function.startswith("0x") else function
            yield Spent(int(count.replace(",", "")), name, file, Path(library or "").name)
