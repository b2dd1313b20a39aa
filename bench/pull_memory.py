"""What a large pull holds in memory at its worst, against the rows as dicts."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

from measuring import PeakMemory, in_child
from ready_store import CLOCK, Ready
from sqlalchemy import select
from tables import Table
from task_database import TaskDatabase, open_tasks
from workload import OWNER, Diff, task_creates

from mobync import Mobync


def measure(quick: bool) -> list[Table]:
    diffs = 20_000 if quick else 100_000
    wire = len(json.dumps(_log(1000))) / 1000
    table = Table(
        "pull_memory",
        f"Memory: a pull of {diffs:,} diffs, peak bytes for each diff",
        ["what", "bytes a diff", "times the wire"],
        notes=[
            f"A diff has {wire:.0f} bytes on the wire. Peak of what the process holds beyond what "
            "it held before (so memory of C is in it), each in a process of its own, the reply "
            "included. From SQLite through mobync.sqlalchemy, but for 'rows as text': there the "
            "store holds the window as JSON text before the pull begins.",
        ],
    )
    works: dict[str, Callable[[int], int]] = {
        "SELECT to dicts": _select,
        "apply": _apply,
        "apply, json.dumps of the reply": _apply_and_dump,
        "apply, rows as text": _apply_to_text,
    }
    if hasattr(Mobync, "apply_json"):
        works["apply_json"] = _apply_json
        works["apply_json, rows as text"] = _apply_json_to_text
    for what, work in works.items():
        peak = in_child(work, diffs)
        table.add(what, peak / diffs, peak / diffs / wire)
    return [table]


def _log(size: int) -> list[Diff]:
    creates = task_creates(random.Random(7), size)
    return [{**row, "logical_clock": CLOCK + i} for i, row in enumerate(creates)]


def _in_database(size: int, work: Callable[[TaskDatabase], object]) -> int:
    with (
        tempfile.TemporaryDirectory() as directory,
        open_tasks("sqlite", Path(directory)) as database,
    ):
        for begin in range(0, size, 1000):
            rows = task_creates(random.Random(begin), 1000)
            database.fill_log([{**row, "logical_clock": begin + i} for i, row in enumerate(rows)])
        database.mobync.apply(size, [], OWNER)  # whatever is loaded or cached once
        with PeakMemory() as peak:
            kept = work(database)
        assert kept
    return peak.bytes


def _select(size: int) -> int:
    def work(database: TaskDatabase) -> object:
        with database.engine.connect() as connection:
            question = select(database.log).where(database.log.c.owner == OWNER)
            return [dict(row) for row in connection.execute(question).mappings()]

    return _in_database(size, work)


def _apply(size: int) -> int:
    return _in_database(size, lambda database: database.mobync.apply(0, [], OWNER))


def _apply_and_dump(size: int) -> int:
    return _in_database(
        size, lambda database: json.dumps(database.mobync.apply(0, [], OWNER)).encode()
    )


def _apply_json(size: int) -> int:
    body = b'{"auth_token": "token", "logical_clock": 0, "diffs": []}'
    return _in_database(size, lambda database: database.mobync.apply_json(body, OWNER))


def _apply_to_text(size: int) -> int:
    synced = Mobync(Ready(json.dumps(_log(size))))
    with PeakMemory() as peak:
        reply = synced.apply(CLOCK, [], OWNER)
    assert len(reply["diffs"]) == size
    return peak.bytes


def _apply_json_to_text(size: int) -> int:
    synced = Mobync(Ready(json.dumps(_log(size))))
    body = json.dumps({"auth_token": "token", "logical_clock": CLOCK, "diffs": []}).encode()
    with PeakMemory() as peak:
        reply = synced.apply_json(body, OWNER)
    assert reply
    return peak.bytes
