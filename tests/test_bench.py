"""Each section of bench/run.py runs and fills its tables; speed is no matter here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import mobync

BENCH = Path(__file__).parents[1] / "bench"

# In a process of its own, since bench/ and tests/ have modules of the same names.
RUN = """
import importlib, json, pathlib, sys
import core_program, measuring, mobync, version_0_2_0
core_program.BUILD = pathlib.Path(sys.argv[3])
race = measuring.race
measuring.TURN_S = 0
measuring.in_child = lambda work, *arguments: work(*arguments)
measuring.race = lambda who, budget_s, **how: race(who, 0, **{**how, "least": 2})
version_0_2_0.load = lambda: mobync  # not from a package index
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
    with tempfile.TemporaryDirectory() as built:
        done = subprocess.run(
            [sys.executable, "-c", RUN, section, json.dumps(tiny), built],
            cwd=BENCH,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return {
        table["name"]: [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
        for table in json.loads(done.stdout)
    }


def test_every_section_is_run_here() -> None:
    """And run.py knows each of them."""
    sections = {file.stem for file in BENCH.glob("*.py") if "def measure(" in file.read_text()}
    own, knows = Path(__file__).read_text(), (BENCH / "run.py").read_text()
    assert "history" in sections
    for section in sections:
        assert f'measured("{section}"' in own.replace("(\n        ", "("), section
        assert f'"{section}"' in knows, section


def test_the_documents_have_the_figures_of_the_results(tmp_path: Path) -> None:
    """None is copied by hand: filled again, the documents stay as they are."""
    script = (
        "import documents, json, pathlib, sys\n"
        "copies = [pathlib.Path(sys.argv[1], path.name) for path in documents.WITH_TABLES]\n"
        "for path, copy in zip(documents.WITH_TABLES, copies):\n"
        "    copy.write_text(path.read_text())\n"
        "documents.fill(json.loads(documents.RESULTS.read_text()), copies)\n"
        "print(*documents.WITH_TABLES, sep='\\n')\n"
    )
    filled = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=BENCH,
        capture_output=True,
        text=True,
        check=True,
    )
    paths = [Path(line) for line in filled.stdout.splitlines()]
    assert [path.name for path in paths] == ["README.md", "performance.md", "operating.md"]
    for path in paths:
        assert (tmp_path / path.name).read_text() == path.read_text(), path


def test_apply_as_the_history_grows() -> None:
    rows = measured("history", TASKS=7, HISTORIES_QUICK=[0, 100, 120], OLD_LIMIT_QUICK=100)
    last = rows["history"][-1]
    assert (last["store"], last["history"], last["0.2.0 ms"]) == ("memory", 120, None)
    assert len(rows["history"]) == 18
    assert all(row["0.2.0 ms"] > 0 for row in rows["history"] if row["history"] <= 100)


def test_the_merge_beside_crdts() -> None:
    tables = measured("crdts", DEVICES_QUICK=3, CLIENTS_QUICK=4)
    for name in ("crdts_records", "crdts_one_key"):
        who = [row["who"] for row in tables[name]]  # and the CRDTs that are installed
        assert who[:2] == ["mobync core", "mobync.merge"]


def test_end_to_end() -> None:
    rows = measured("end_to_end", PUSHED=7, PULLED=20)["end_to_end"]
    assert [row["database"] for row in rows].count("sqlite") == 11
    assert len(rows) == 22
    assert all(row["CPU ms"] > 0 for row in rows)


def test_a_requests_bytes_beside_parsing_and_printing_alone() -> None:
    rows = measured("json_text")["json_text"]
    assert [row["how"] for row in rows].count("orjson") == 4


def test_compaction() -> None:
    tables = measured("compaction", TASKS_QUICK=20, LIVING_QUICK=20, EDITS_QUICK=100, ROUNDS=1)
    raw, compacted = tables["compaction"]
    assert raw["rows"] > compacted["rows"]
    assert compacted["rows per live row"] == 1
    assert [row["rows in the log"] for row in tables["first_pulls"]] == [20, 20]


def test_syncs_over_http() -> None:
    rows = measured("over_http", OWNERS=1, DEVICES_EACH=3, SECONDS_QUICK=0.5)["over_http"]
    assert [row["route"] for row in rows] == ["/sync", "/read", "/empty"]
    assert all(row["requests/s"] > 0 for row in rows)


def test_the_technique_of_reading_json() -> None:
    rows = measured("steps")["json_technique"]
    assert [row["how"] for row in rows] == ["own scanner (csrc/core/json.c)", "cJSON trees"]


def test_small_syncs_beside_their_statements() -> None:
    rows = measured("small_syncs", WARM_UPS=7, ROUNDS=1, BUDGET_QUICK_S=0)["small_syncs"]

    by_hand = {
        row["database"]: row
        for row in rows
        if (row["work"], row["how"]) == ("push one update", "by hand")
    }
    # BEGIN, lock, window, update, log, head, COMMIT; PyMySQL's transactions begin by themselves.
    statements = {kind: row["statements"] for kind, row in by_hand.items()}
    assert statements == {"sqlite": 7, "postgresql": 7, "mariadb": 6}
    assert by_hand["postgresql"]["round trips"] == 7
    assert len(rows) == 25  # one of them in memory
    pulls = {
        row["database"]: row["round trips"]
        for row in rows
        if (row["work"], row["how"]) == ("pull one diff", "mobync")
    }
    assert pulls == {"sqlite": None, "postgresql": 2, "mariadb": 2}


def test_small_syncs_that_are_awaited_wait_as_often_as_the_driver_must() -> None:
    path = [str(BENCH), str(Path(mobync.__file__).parents[1])]
    done = subprocess.run(
        [sys.executable, str(BENCH / "async_syncs.py")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    fewest = {"push": 2, "poll": 1, "named push": 2, "named poll": 1}
    assert json.loads(done.stdout) == {
        "aiosqlite": fewest,
        "asyncpg": {**fewest, "push": 3, "named push": 3},  # it gives rows of one statement only
        "psycopg": fewest,
        "asyncmy": fewest,
    }


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
    stores = [row["database"] for row in tables["flatness_of_documents"]]
    assert stores == twice[:2] + ["sqlite, cache of 64 MB"] * 2 + twice[2:]


def test_each_route_of_small_syncs_comes_first_equally_often() -> None:
    shown = "import small_http as s; print(s.ROUNDS, s.ROUNDS_QUICK)"
    rounds = subprocess.check_output([sys.executable, "-c", shown], cwd=BENCH, text=True)
    assert not [count for count in rounds.split() if int(count) % 2]


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
