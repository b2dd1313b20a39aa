"""Runs the benchmarks, prints their tables, and writes results.json and results.svg.

    python bench/run.py                     everything: about ten minutes on a quiet machine
    python bench/run.py --quick             less of everything: one to two minutes
    python bench/run.py history json_text   some sections only

Only a full run writes bench/results.json, from which documentation and README are made; any other
writes beside it into build/bench.  PostgreSQL is the one that MOBYNC_TEST_POSTGRESQL_URL names
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
import machine
from core_program import BUILD
from rich.console import Console
from tables import RESULTS, Table, show

SECTIONS = (
    "history",
    "crdts",
    "end_to_end",
    "over_http",
    "json_text",
    "pull_memory",
    "compaction",
    "steps",
)


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
    loads, seconds, tables = [os.getloadavg()[0]], {}, []
    for section in chosen:
        begin = time.monotonic()
        measured: list[Table] = importlib.import_module(section).measure(arguments.quick)
        seconds[section] = round(time.monotonic() - begin)
        loads.append(os.getloadavg()[0])
        for table in measured:
            show(table, console)
        tables += measured
    results = {
        **machine.described(),
        "load": loads,
        "seconds": seconds,
        "tables": [table.as_json() for table in tables],
    }

    is_full = set(chosen) == set(SECTIONS) and not arguments.quick
    path = RESULTS if is_full else BUILD / RESULTS.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    chart.draw(results, path.with_suffix(".svg"))
    console.print({**machine.described(), "load": loads, "seconds": seconds})
    console.print(f"written: {path} and {path.with_suffix('.svg')}")


if __name__ == "__main__":
    main()
