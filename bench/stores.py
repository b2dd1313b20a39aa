"""Two small stores as an app would write them for either version of mobync: the seven methods.

Both versions run the same code: ``read`` gives JSON text, which 0.2.0 wants, and nothing is
overridden that 0.2.0 does not know.  What a version calls decides what it costs.
"""

from __future__ import annotations

import json
import sqlite3
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from workload import OWNER, Diff

LOG_COLUMNS = ("id", "owner", "logical_clock", "utc_timestamp", "type", "model", "json_data")
TASK_COLUMNS = ("id", "owner", "name", "notes", "done", "priority", "due", "list_name")
COLUMNS = {"tasks": TASK_COLUMNS, "diffs": LOG_COLUMNS}

SCHEMA = """
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = NORMAL;
    CREATE TABLE tasks (id TEXT PRIMARY KEY, owner TEXT, name TEXT, notes TEXT, done INTEGER,
                        priority INTEGER, due TEXT, list_name TEXT);
    CREATE TABLE diffs (id TEXT, owner TEXT, logical_clock INTEGER, utc_timestamp INTEGER,
                        type TEXT, model TEXT, json_data TEXT);
    CREATE INDEX diffs_by_clock ON diffs (owner, logical_clock);
"""


class AcceptsAll:
    def validate_create(self, owner_id: str, **diff: Any) -> bool:
        return True

    validate_update = validate_delete = validate_create


class SQLiteFile(AcceptsAll):
    """A file with the index that the question for the window needs.

    The index is not unique: 0.2.0 gives all diffs of an apply one clock.
    """

    def __init__(self, path: Path) -> None:
        self.db = sqlite3.connect(path)
        self.db.executescript(SCHEMA)

    def read(self, where: str, filters: Sequence[Any]) -> str:
        compare = {"equal": "=", "majorOrEqual": ">="}
        tests = " AND ".join(f"{f.field_name} {compare[f.filter_by.name]} ?" for f in filters)
        columns = COLUMNS[where]
        rows = self.db.execute(
            f"SELECT {', '.join(columns)} FROM {where} WHERE {tests}", [f.data for f in filters]
        )
        return json.dumps([dict(zip(columns, row, strict=True)) for row in rows])

    def create(self, where: str, data_json: str) -> None:
        row = json.loads(data_json)
        names = [name for name in COLUMNS[where] if name in row]
        marks = ", ".join(f":{name}" for name in names)
        self.db.execute(f"INSERT INTO {where} ({', '.join(names)}) VALUES ({marks})", row)

    def update(self, where: str, data_json: str) -> None:
        row = json.loads(data_json)
        changes = ", ".join(f"{name} = :{name}" for name in COLUMNS[where] if name in row)
        self.db.execute(f"UPDATE {where} SET {changes} WHERE id = :id", row)

    def delete(self, where: str, data_json: str) -> None:
        self.db.execute(f"DELETE FROM {where} WHERE id = :id", json.loads(data_json))

    def commit(self) -> None:
        self.db.commit()

    def fill_log(self, rows: Iterable[Diff]) -> None:
        """Write rows into the log as they are."""
        marks = ", ".join(f":{name}" for name in LOG_COLUMNS)
        self.db.executemany(f"INSERT INTO diffs VALUES ({marks})", rows)
        self.db.commit()

    def forget_from(self, clock: int) -> None:
        """Take the log back to what it was before a clock."""
        self.db.execute("DELETE FROM diffs WHERE owner = ? AND logical_clock >= ?", (OWNER, clock))
        self.db.commit()


class Memory(AcceptsAll):
    """Dicts; the log of an owner in the order of its clocks, found by bisection."""

    def __init__(self) -> None:
        self.models: dict[str, dict[str, Diff]] = {"tasks": {}}
        self.log: list[Diff] = []

    def read(self, where: str, filters: Sequence[Any]) -> str:
        wanted = {f.field_name: f.data for f in filters}
        begin = bisect_left(
            self.log, wanted.get("logical_clock", 0), key=lambda row: row["logical_clock"]
        )
        return json.dumps([row for row in self.log[begin:] if row["owner"] == wanted["owner"]])

    def create(self, where: str, data_json: str) -> None:
        row = json.loads(data_json)
        if where == "diffs":
            self.log.append(row)
        else:
            self.models[where][row["id"]] = row

    def update(self, where: str, data_json: str) -> None:
        row = json.loads(data_json)
        self.models[where][row["id"]].update(row)

    def delete(self, where: str, data_json: str) -> None:
        self.models[where].pop(json.loads(data_json)["id"], None)

    def commit(self) -> None:
        pass

    def fill_log(self, rows: Iterable[Diff]) -> None:
        self.log.extend(rows)

    def forget_from(self, clock: int) -> None:
        del self.log[bisect_left(self.log, clock, key=lambda row: row["logical_clock"]) :]


def mobync_on(store: SQLiteFile | Memory, version: ModuleType) -> Any:
    """A version's Mobync whose Synchronizer hands its seven methods on to a store."""

    class Handed(version.Synchronizer):  # type: ignore[name-defined, misc]
        read, create, update, delete = store.read, store.create, store.update, store.delete
        validate_create, validate_update = store.validate_create, store.validate_update
        validate_delete = store.validate_delete

    return version.Mobync(Handed())
