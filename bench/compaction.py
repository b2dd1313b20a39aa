"""How large the log is, for what lives, as it grows and compacted; and how long a first pull takes.

The paper ("Offline-online data synchronization for Dart mobile applications", 2020) measured more
than four rows of log for each row of data.  The workload here is one like it: workload.task_life.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterable
from contextlib import ExitStack
from itertools import islice
from statistics import median

from sqlalchemy import func, select
from tables import Table
from task_database import TaskDatabase, open_tasks
from workload import OWNER, START_MS, Diff, task_creates, task_life, task_updates

SYNC_EVERY = 20  # edits that the device makes between two syncs
PUSH_SIZE = 20_000  # diffs in a request, where a log has to grow fast
ROUNDS = 5
TASKS, TASKS_QUICK = 5000, 300
LIVING, LIVING_QUICK = 100_000, 1000
EDITS, EDITS_QUICK = 1_000_000, 10_000


def measure(quick: bool) -> list[Table]:
    return [_log_sizes(quick), _first_pulls(quick)]


def _log_sizes(quick: bool) -> Table:
    tasks = TASKS_QUICK if quick else TASKS
    table = Table(
        "compaction",
        f"Compaction: the log of a task app, {tasks:,} tasks over their lives",
        [
            "log",
            "rows",
            "rows per live row",
            "kB",
            "bytes per live row",
            "new device downloads kB",
            "seconds to compact",
        ],
        notes=[
            "A task has six fields. It gets 4 to 12 edits soon after its create, and each edit "
            "sets one field. Three fifths of the edits set done or name. A fifth of the tasks are "
            f"deleted. A device syncs after {SYNC_EVERY} edits, and a create contains the edits "
            "before its first sync.",
        ],
    )
    with open_tasks("sqlite") as database:
        edits = _push_all(database, task_life(random.Random(8), tasks), SYNC_EVERY)
        with database.store.transaction(OWNER) as inside:
            live = inside.read("tasks")
        before = _download_bytes(database, "before")
        begin = time.perf_counter()
        compacted = database.mobync.compact(OWNER)
        seconds = time.perf_counter() - begin
        after = _download_bytes(database, "after")
    live_bytes = sum(len(json.dumps(row)) for row in live)
    table.notes.append(
        f"{edits:,} edits; {len(live):,} rows live, of {live_bytes / len(live):.0f} bytes as JSON."
    )
    for name, rows, size, download, took in (
        ("raw", compacted.rows_before, compacted.bytes_before, before, None),
        ("compacted", compacted.rows_after, compacted.bytes_after, after, seconds),
    ):
        table.add(
            name, rows, rows / len(live), size / 1000, size / len(live), download / 1000, took
        )
    return table


def _first_pulls(quick: bool) -> Table:
    """What a new device waits for: after many edits and a compaction, and after creates only."""
    tasks, edits = (LIVING_QUICK, EDITS_QUICK) if quick else (LIVING, EDITS)
    table = Table(
        "first_pulls",
        f"First pull: what a new device waits for, {tasks:,} living tasks",
        ["log", "rows in the log", "seconds", "/ creates only"],
        notes=[
            f"SQLite; medians of {ROUNDS} rounds, in which the two take turns. "
            "One apply, with the merge and its transaction; no HTTP.",
        ],
    )
    with ExitStack() as stack:
        created, edited = (stack.enter_context(open_tasks("sqlite")) for _ in range(2))
        creates = task_creates(random.Random(5), tasks)
        ids = [json.loads(create["json_data"])["id"] for create in creates]
        _push_all(created, creates, PUSH_SIZE)
        updates = task_updates(random.Random(6), ids, edits, begin_ms=START_MS + tasks)
        _push_all(edited, creates + updates, PUSH_SIZE)
        edited.mobync.compact(OWNER)
        names = {f"{tasks:,} creates": created, f"{edits:,} edits more, compacted": edited}
        times: dict[str, list[float]] = {name: [] for name in names}
        for number in range(ROUNDS):
            for name, database in names.items():
                begin = time.perf_counter()
                reply = database.mobync.apply(0, [], OWNER, device=f"new {number}", request=1)
                times[name].append(time.perf_counter() - begin)
                if len(reply["diffs"]) != tasks:
                    raise AssertionError(f"{len(reply['diffs'])} diffs for {tasks} tasks")
        first, *_ = (median(taken) for taken in times.values())
        for name, database in names.items():
            seconds = median(times[name])
            with database.engine.connect() as connection:
                rows = connection.scalar(select(func.count()).select_from(database.log))
            table.add(name, rows, seconds, seconds / first)
    return table


def _push_all(database: TaskDatabase, diffs: Iterable[Diff], size: int) -> int:
    """Let one device push them, ``size`` at once, and then see all; returns how many there were."""
    waiting = iter(diffs)
    clock = count = number = 0
    mark = None
    while True:
        number += 1
        pushed = list(islice(waiting, size))
        said = {"device": "the phone", "request": number, "mark": mark}
        reply = database.mobync.apply(clock, pushed, OWNER, **said)
        clock, mark = reply["logical_clock"], reply["mark"]
        count += len(pushed)
        if not pushed:  # a poll, by which all has been seen
            return count


def _download_bytes(database: TaskDatabase, device: str) -> int:
    """What a new device gets, as JSON."""
    return len(json.dumps(database.mobync.apply(0, [], OWNER, device=device, request=1)))
