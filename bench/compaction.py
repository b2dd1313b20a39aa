"""How large the log is, for what lives: as it grows, and compacted.

The paper ("Offline-online data synchronization for Dart mobile applications", 2020) measured more
than four rows of log for each row of data.  The workload here is one like it: workload.task_life.
"""

from __future__ import annotations

import json
import random
import time
from itertools import islice

from tables import Table
from task_database import TaskDatabase, open_tasks
from workload import OWNER, task_life

SYNC_EVERY = 20  # edits that the device makes between two syncs


def measure(quick: bool) -> list[Table]:
    tasks = 300 if quick else 5000
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
            "A task of six fields gets 4 to 12 edits of one field each, soon after it was made, "
            f"half of them of its tick or name; a fifth are deleted. A device syncs after "
            f"{SYNC_EVERY} edits, so a create takes in what was edited before its first sync.",
        ],
    )
    with open_tasks("sqlite") as database:
        edits = _play(database, tasks)
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
    return [table]


def _play(database: TaskDatabase, tasks: int) -> int:
    """Let one device live through it; returns the number of its edits."""
    life = task_life(random.Random(8), tasks)
    clock = edits = number = 0
    mark, pushed = None, [*islice(life, SYNC_EVERY)]
    while True:
        number += 1
        said = {"device": "the phone", "request": number, "mark": mark}
        reply = database.mobync.apply(clock, pushed, OWNER, **said)
        clock, mark = reply["logical_clock"], reply["mark"]
        edits += len(pushed)
        if not pushed:  # a poll, by which all has been seen
            break
        pushed = list(islice(life, SYNC_EVERY))
    return edits


def _download_bytes(database: TaskDatabase, device: str) -> int:
    """What a new device gets, as JSON."""
    return len(json.dumps(database.mobync.apply(0, [], OWNER, device=device, request=1)))
