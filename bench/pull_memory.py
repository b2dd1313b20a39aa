"""What a large pull holds in memory at its worst, against the rows as dicts."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

from measuring import PeakMemory, in_child
from ready_store import CLOCK, Ready
from sqlalchemy import select
from sqlalchemy.engine import URL
from tables import Table
from task_database import TaskDatabase, open_tasks
from workload import OWNER, Diff, task_creates

from mobync import Mobync

DIFFS, DIFFS_QUICK = 300_000, 30_000


def measure(quick: bool) -> list[Table]:
    diffs = DIFFS_QUICK if quick else DIFFS
    wire = len(json.dumps(_log(1000))) / 1000
    table = Table(
        "pull_memory",
        f"Memory: a pull of {diffs:,} diffs, peak bytes for each diff",
        ["what", "bytes a diff", "times the wire"],
        notes=[
            f"A diff has {wire:.0f} bytes on the wire. The table says how much memory the "
            "process needed at most, beyond what it had before the pull. This includes the memory "
            "of C and the reply. Each row has its own process. The data is in SQLite, read through "
            "mobync.sqlalchemy; with 'rows as text', the store has the window as JSON text in "
            "memory before the pull begins.",
        ],
    )
    works: dict[str, Callable[[int, URL], int]] = {
        "SELECT to dicts": _select,
        "apply": _apply,
        "apply, json.dumps of the reply": _apply_and_dump,
        "apply, rows as text": _apply_to_text,
    }
    if hasattr(Mobync, "apply_json"):
        works["apply_json"] = _apply_json
        works["apply_json, rows as text"] = _apply_json_to_text
    with open_tasks("sqlite") as database:
        for begin in range(0, diffs, 1000):
            database.fill_log(_log(1000, begin))
        for what, work in works.items():
            peak = in_child(work, diffs, database.engine.url)
            table.add(what, peak / diffs, peak / diffs / wire)
    return [table]


def _log(size: int, begin: int = CLOCK) -> list[Diff]:
    creates = task_creates(random.Random(begin), size)
    return [{**row, "logical_clock": begin + i} for i, row in enumerate(creates)]


def _in_database(url: URL, work: Callable[[TaskDatabase], object]) -> int:
    database = TaskDatabase(url)
    database.mobync.apply(database.mobync.logical_clock(OWNER), [], OWNER)  # whatever is cached
    with PeakMemory() as peak:
        kept = work(database)
    assert kept
    return peak.bytes


def _select(size: int, url: URL) -> int:
    def work(database: TaskDatabase) -> object:
        with database.engine.connect() as connection:
            question = select(database.log).where(database.log.c.owner == OWNER)
            return [dict(row) for row in connection.execute(question).mappings()]

    return _in_database(url, work)


def _apply(size: int, url: URL) -> int:
    return _in_database(url, lambda database: database.mobync.apply(0, [], OWNER))


def _apply_and_dump(size: int, url: URL) -> int:
    return _in_database(
        url, lambda database: json.dumps(database.mobync.apply(0, [], OWNER)).encode()
    )


def _apply_json(size: int, url: URL) -> int:
    body = b'{"auth_token": "token", "logical_clock": 0, "diffs": []}'
    return _in_database(url, lambda database: database.mobync.apply_json(body, OWNER))


def _apply_to_text(size: int, url: URL) -> int:
    synced = Mobync(Ready(json.dumps(_log(size))))
    with PeakMemory() as peak:
        reply = synced.apply(CLOCK, [], OWNER)
    assert len(reply["diffs"]) == size
    return peak.bytes


def _apply_json_to_text(size: int, url: URL) -> int:
    synced = Mobync(Ready(json.dumps(_log(size))))
    body = json.dumps({"auth_token": "token", "logical_clock": CLOCK, "diffs": []}).encode()
    with PeakMemory() as peak:
        reply = synced.apply_json(body, OWNER)
    assert reply
    return peak.bytes
