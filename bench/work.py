"""Counted work, which does not depend on how busy the machine is.

    python bench/work.py            counts, and compares with work_baseline.json
    python bench/work.py --check    the same, and fails where something takes 10 % more
    python bench/work.py --write    makes what was counted the new baseline

Counted are the instructions (callgrind) that the core and the binding take for a fixed merge and a
fixed apply; the calls of Python functions in that apply; and what a fixed sync asks of its
database: SQL statements, and rows that the Synchronizer reads.  Of a push of one edit, of a pull
and of a poll these are counted: statements and round trips, for each database that answers and
each driver that is awaited, and the calls of mobync's functions.  What Python, cJSON and the C
library take is left out, as it depends on how they were built.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import async_syncs
import core_program
import fixed_apply
import small_syncs
import valgrinding
from sqlalchemy import event, insert
from steps import core_requests
from task_database import KINDS, TaskDatabase, answering, answers, open_tasks, task_row
from workload import OWNER, task_creates, task_updates

import mobync
from mobync import Mobync, ReadFilter
from mobync.sqlalchemy import SQLAlchemySynchronizer

BASELINE = Path(__file__).with_name("work_baseline.json")
TOLERANCE = 0.10

_SMALL = {"push one update": "push", "pull one diff": "pull", "poll, nothing new": "poll"}

HISTORY, UNSEEN, PUSHED = 10_000, 50, 100  # diffs of the fixed sync

Counts = dict[str, int]


def main() -> None:
    parser = argparse.ArgumentParser(description="Count the work of a fixed merge and apply.")
    parser.add_argument("--check", action="store_true", help="fail where it is 10 %% more")
    parser.add_argument("--write", action="store_true", help="write the new baseline")
    arguments = parser.parse_args()
    counted = count()
    baseline: Counts = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    if arguments.write:
        BASELINE.write_text(json.dumps(counted, indent=4, sort_keys=True) + "\n")
    worse = compare(counted, baseline)
    if arguments.check and worse:
        sys.exit(f"more than {TOLERANCE:.0%} over {BASELINE.name}: {', '.join(worse)}")


def count() -> Counts:
    return {
        "core: instructions of 40 syncs": _core_instructions(),
        "apply: instructions": valgrinding.apply_instructions("apply")[1],
        "apply_json: instructions": valgrinding.apply_instructions("apply_json")[1],
        "apply: calls of Python functions": fixed_apply.python_calls("apply"),
        "apply_json: calls of Python functions": fixed_apply.python_calls("apply_json"),
        **_database_work(),
        **_small_syncs(),
        **_async_syncs(),
    }


def compare(counted: Counts, baseline: Counts) -> list[str]:
    """Print what was counted beside the baseline; returns the names of what is worse."""
    worse = []
    for name, value in counted.items():
        before = baseline.get(name)
        if before is None:
            print(f"{name:44} {value:>14,}   no baseline: --write makes one")
            continue
        change = value / before - 1
        print(f"{name:44} {value:>14,} {before:>14,} {change:+7.1%}")
        if change > TOLERANCE:
            worse.append(name)
    return worse


# ---- instructions -------------------------------------------------------------------------------


def _core_instructions() -> int:
    program = core_program.build()
    path = core_program.BUILD / "work.jsonl"
    core_program.write_requests(core_requests(), path)
    return valgrinding.our_instructions([str(program), str(path), "1"])


# ---- what is asked of the database -------------------------------------------------------------


class _CountingStore(SQLAlchemySynchronizer):
    rows_read = 0

    def read(self, where: str, filters: Sequence[ReadFilter] = ()) -> list[dict[str, Any]]:
        rows = super().read(where, filters)
        _CountingStore.rows_read += len(rows)
        return rows

    def read_log(self, where: str, filters: Sequence[ReadFilter]) -> Any:
        rows = list(super().read_log(where, filters))
        _CountingStore.rows_read += len(rows)
        return rows


def _database_work() -> Counts:
    """Of a device that pushes 100 edits, gets 50, and has seen the 10,000 before them."""
    with open_tasks("sqlite") as database:
        rng = random.Random(11)
        rows = [task_row(create, OWNER) for create in task_creates(rng, 1000)]
        with database.engine.begin() as connection:
            connection.execute(insert(database.tasks), rows)
        ids = [row["id"] for row in rows]
        log = task_updates(rng, ids, HISTORY + UNSEEN)
        database.fill_log([{**row, "logical_clock": i} for i, row in enumerate(log)])
        synced = Mobync(_CountingStore(database.engine, {"tasks": database.tasks}))
        with synced.synchronizer.transaction(OWNER):
            pass  # the first one of an owner makes its head
        for _ in range(2):  # and notes that there are devices without a name, once in a process
            synced.apply(HISTORY + UNSEEN, [], OWNER)
        _CountingStore.rows_read = 0

        statements = _noted_statements(database)
        reply = synced.apply(HISTORY, task_updates(rng, ids, PUSHED), OWNER)
        of_sync = len(statements)
        synced.apply(reply["logical_clock"], [], OWNER)
        return {
            "sync: rows read, SQLite": _CountingStore.rows_read,
            "sync: SQL statements, SQLite": of_sync,
            "empty sync: SQL statements, SQLite": len(statements) - of_sync,
        }


def _small_syncs() -> Counts:
    """Of a device that pushes one update, and of one that has everything."""
    counts = {}
    for kind in answering(KINDS, []):
        with open_tasks(kind) as database:
            ids = small_syncs.make_all_tasks(database)
            sent = small_syncs.traffic_of(kind, database, ids)
            for work, name in _SMALL.items():
                traffic = sent[work, "mobync"]
                counts[f"{name} of one: statements, {kind}"] = traffic.statements
                if kind != "sqlite":
                    counts[f"{name} of one: round trips, {kind}"] = traffic.round_trips
            for name, traffic in small_syncs.traffic_of_named(kind, database).items():
                counts[f"named {name}: statements, {kind}"] = traffic.statements
                if kind != "sqlite":
                    counts[f"named {name}: round trips, {kind}"] = traffic.round_trips
            of_documents = small_syncs.traffic_of_documents(kind, database)
            counts[f"push of one document: statements, {kind}"] = of_documents.statements
            if kind != "sqlite":
                counts[f"push of one document: round trips, {kind}"] = of_documents.round_trips
            if kind == "sqlite":
                counts |= _python_calls(database, ids["mobync"])
    return counts


def _async_syncs() -> Counts:
    """What small syncs wait for where the driver is awaited."""
    return {
        f"{name} of one: waits, {driver}": waits
        for driver, kind in async_syncs.DRIVERS.items()
        if answers(kind)
        for name, waits in async_syncs.waits_of(driver).items()
    }


def _python_calls(database: TaskDatabase, ids: list[str]) -> Counts:
    """How many functions of mobync's they call, once everything is kept."""
    clock = database.mobync.logical_clock("mobync")
    *updates, last = task_updates(random.Random(12), ids, 40, "mobync")
    for update in updates:
        clock = database.mobync.apply(clock, [update], "mobync")["logical_clock"]
        database.mobync.apply(clock, [], "mobync")
    package = str(Path(mobync.__file__).parent)
    push = partial(database.mobync.apply, clock, [last], "mobync")
    poll = partial(database.mobync.apply, clock + 1, [], "mobync")
    return {
        "push of one: calls of mobync's functions, sqlite": fixed_apply.calls_of(push, package),
        "poll of one: calls of mobync's functions, sqlite": fixed_apply.calls_of(poll, package),
    }


def _noted_statements(database: TaskDatabase) -> list[str]:
    """A list to which each statement is added that the database executes from now on."""
    noted: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *others: Any) -> None:
        noted.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    return noted


if __name__ == "__main__":
    main()
