"""The programs in bench/ for small syncs and a client's queue run; speed is no matter here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mobync

BENCH = Path(__file__).parents[1] / "bench"

# In a process of its own, since bench/ and tests/ have modules of the same names.
RUN = """
import importlib, json, sys
import measuring
measuring.TURN_S = 0
measuring.in_child = lambda work, *arguments: work(*arguments)
section = importlib.import_module(sys.argv[1])
for name, value in json.loads(sys.argv[2]).items():
    setattr(section, name, value)
print(json.dumps([table.as_json() for table in section.measure(quick=True)]))
"""

Rows = list[dict[str, Any]]


def measured(section: str, **tiny: Any) -> dict[str, Rows]:
    """The rows of a section's tables, with some of its constants made tiny."""
    # No other mobync than the one under test, which may be installed elsewhere.
    path = [str(BENCH), str(Path(mobync.__file__).parents[1])]
    done = subprocess.run(
        [sys.executable, "-c", RUN, section, json.dumps(tiny)],
        cwd=BENCH,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {
        table["name"]: [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
        for table in json.loads(done.stdout)
    }


def test_small_syncs_beside_their_statements() -> None:
    rows = measured("small_syncs", WARM_UPS=7, ROUNDS=1, BUDGET_QUICK_S=0)["small_syncs"]

    by_hand = {row["database"]: row for row in rows if row["how"] == "by hand"}
    # BEGIN, lock, window, update, log, head, COMMIT; PyMySQL's transactions begin by themselves.
    statements = {kind: row["statements"] for kind, row in by_hand.items()}
    assert statements == {"sqlite": 7, "postgresql": 7, "mariadb": 6}
    assert by_hand["postgresql"]["round trips"] == 7
    assert len(rows) == 15


def test_how_flat_syncs_are() -> None:
    tables = measured(
        "flatness",
        HISTORIES_QUICK=[10, 25],
        WARM_UPS=7,
        DOCUMENTS_QUICK=[5, 10],
        ROUNDS=1,
        DOCUMENT_ROUNDS=1,
        BUDGET_QUICK_S=0,
    )

    twice = [kind for kind in ("sqlite", "postgresql", "mariadb") for _ in range(2)]
    assert [row["database"] for row in tables["flatness"]] == twice
    assert [row["database"] for row in tables["flatness_of_documents"]] == twice


def test_small_syncs_over_http() -> None:
    rows = measured("small_http", DEVICES=3, ROUNDS_QUICK=1, SECONDS_QUICK=0.5)["small_http"]

    assert [row["route"] for row in rows].count("/sync") == 3
    assert all(row["requests/s"] > 0 for row in rows)


def test_accord_is_measured_or_left_out() -> None:
    rows = measured("accord", BATCHES=[1, 3], RECORDS=4, ROUNDS=1, BUDGET_QUICK_S=0)["accord"]

    assert [row["who"] for row in rows] in ([], ["mobync", "Accord"] * 2)


def test_the_memory_of_a_pull() -> None:
    rows = measured("pull_memory", DIFFS_QUICK=1000)["pull_memory"]

    assert {"SELECT to dicts", "apply", "apply_json"} <= {row["what"] for row in rows}


def test_a_queue_of_rxdb_is_measured_or_left_out() -> None:
    rows = measured("rxdb_writes", WRITES=7, ROUNDS_QUICK=2)["rxdb_writes"]

    assert [row["database"] for row in rows] in ([], ["sqlite", "postgresql"])
    assert all(row["writes"] == 7 for row in rows)
