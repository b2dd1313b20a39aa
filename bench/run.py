"""Runs the benchmarks, prints their tables, and writes results.json and results.svg.

    python bench/run.py                     everything: about 20 minutes on a quiet machine
    python bench/run.py --quick             less of everything: a few minutes
    python bench/run.py history json_text   some sections only
    python bench/run.py --write small       what a small sync costs, kept beside what is there

"small" stands for the sections small_syncs, flatness, small_http, accord and pull_memory.  A full
run waits before each section that measures time until the machine is quiet, one with --write before
its first.  Only these two are kept, in bench/results.json and the tables of README and
documentation; any other writes into build/bench.  The databases are those of tests/databases.py;
where one does not answer, what needs it is left out, and the table says so.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time

import chart
import documents
import machine
from core_program import BUILD
from rich.console import Console
from tables import RESULTS, Table, show

SMALL = ("small_syncs", "flatness", "small_http", "accord")
TIMED = (
    "history",
    "crdts",
    "end_to_end",
    "json_text",
    "compaction",
    "over_http",
    "rxdb_writes",
    *SMALL,
)
SECTIONS = (*TIMED, "pull_memory", "steps")
GROUPS = {"small": (*SMALL, "pull_memory")}


def main() -> None:
    arguments, chosen = _arguments()
    console = Console(width=None if sys.stdout.isatty() else 120)
    is_full = set(chosen) == set(SECTIONS) and not arguments.quick
    is_kept = is_full or arguments.write
    loads: dict[str, float] = {}
    seconds: dict[str, int] = {}
    tables: list[Table] = []
    for section in chosen:
        if section in TIMED and (is_full or (is_kept and section == chosen[0])):
            load, waited_s = machine.wait_for_quiet()
            console.print(f"{section}: load average {load:.2f} after {waited_s} s")
        loads[section] = os.getloadavg()[0]
        begin = time.monotonic()
        measured: list[Table] = importlib.import_module(section).measure(arguments.quick)
        seconds[section] = round(time.monotonic() - begin)
        for table in measured:
            show(table, console)
        tables += measured
    results = {
        **machine.described(),
        "load": list(loads.values()),
        "seconds": seconds,
        "tables": [table.as_json() for table in tables],
    }
    console.print({name: value for name, value in results.items() if name != "tables"})
    if is_kept and not is_full:
        results = documents.kept_beside(json.loads(RESULTS.read_text()), results)

    path = RESULTS if is_kept else BUILD / RESULTS.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    chart.draw(results, path.with_suffix(".svg"))
    if is_kept:
        documents.fill(results, documents.WITH_TABLES)
    console.print(f"written: {path} and {path.with_suffix('.svg')}")


def _arguments() -> tuple[argparse.Namespace, list[str]]:
    """The command line, and the sections that it names."""
    parser = argparse.ArgumentParser(description="Run the benchmarks.")
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument("--write", action="store_true", help="keep what is measured")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    arguments = parser.parse_args()
    chosen = [part for name in arguments.sections for part in GROUPS.get(name, (name,))]
    unknown = set(chosen) - set(SECTIONS)
    if unknown:
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    if arguments.quick and arguments.write:
        parser.error("what --quick measures is not worth keeping")
    return arguments, chosen or list(SECTIONS)


if __name__ == "__main__":
    main()
