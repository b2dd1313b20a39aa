"""Runs the benchmarks, prints their tables, and writes results.json and results.svg.

    python bench/run.py                     everything: about 15 minutes on a quiet machine
    python bench/run.py --quick             less of everything: one to two minutes
    python bench/run.py history json_text   some sections only

A full run waits before each section that measures time until the machine is quiet.  Only a full
run writes bench/results.json and, from it, the tables of README and documentation; any other
writes into build/bench.  PostgreSQL is the one that MOBYNC_TEST_POSTGRESQL_URL names
(tests/databases.py); where it does not answer, what needs it is left out, and the table says so.
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

TIMED = ("history", "crdts", "end_to_end", "json_text", "compaction", "over_http")
SECTIONS = (*TIMED, "pull_memory", "steps")


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the benchmarks.")
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    arguments = parser.parse_args()
    unknown = set(arguments.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    chosen = arguments.sections or SECTIONS

    console = Console(width=None if sys.stdout.isatty() else 120)
    is_full = set(chosen) == set(SECTIONS) and not arguments.quick
    loads, seconds, tables = [], {}, []
    for section in chosen:
        if is_full and section in TIMED:
            load, waited_s = machine.wait_for_quiet()
            console.print(f"{section}: load average {load:.2f} after {waited_s} s")
        loads.append(os.getloadavg()[0])
        begin = time.monotonic()
        measured: list[Table] = importlib.import_module(section).measure(arguments.quick)
        seconds[section] = round(time.monotonic() - begin)
        for table in measured:
            show(table, console)
        tables += measured
    results = {
        **machine.described(),
        "load": loads,
        "seconds": seconds,
        "tables": [table.as_json() for table in tables],
    }

    path = RESULTS if is_full else BUILD / RESULTS.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    chart.draw(results, path.with_suffix(".svg"))
    if is_full:
        documents.fill(results, documents.WITH_TABLES)
    console.print({**machine.described(), "load": loads, "seconds": seconds})
    console.print(f"written: {path} and {path.with_suffix('.svg')}")


if __name__ == "__main__":
    main()
