"""A sync of one update as one would write it by hand: the driver and ``json``, nothing else.

The statements and the commit are those that mobync needs on the same tables: lock the owner's
head, read what the device has not seen, update the row, insert the log's row, set the head.  There
is no merge and no check, so it is the least that any such endpoint costs.
"""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy.engine import Engine
from workload import Diff

LOG_COLUMNS = ("id", "owner", "logical_clock", "utc_timestamp", "type", "model", "json_data")
TASK_FIELDS = {"name", "notes", "done", "priority", "due", "list_name"}


def open_driver(engine: Engine) -> Any:
    """A connection of the engine's driver, which begins no transaction by itself on SQLite."""
    connection = engine.raw_connection()
    driver: Any = connection.driver_connection
    connection.detach()
    if engine.dialect.name == "sqlite":
        driver.isolation_level = None
    return driver


class ByHand:
    """Syncs over one connection of a driver.

    Args:
        kind: one of KINDS of task_database.
        connection: as open_driver() gives it.
    """

    def __init__(self, kind: str, connection: Any) -> None:
        self._connection = connection
        self._mark = "?" if kind == "sqlite" else "%s"
        self._quote = "`" if kind == "mariadb" else '"'
        self._begin = "BEGIN IMMEDIATE" if kind == "sqlite" else None  # the other drivers begin
        lock = "" if kind == "sqlite" else " FOR UPDATE"
        self._lock = self._sql("SELECT logical_clock FROM diffs_heads WHERE owner = ?" + lock)
        names = ", ".join(f'"{name}"' for name in LOG_COLUMNS)
        marks = ", ".join("?" * len(LOG_COLUMNS))
        self._window = self._sql(
            f"SELECT {names} FROM diffs WHERE owner = ? AND logical_clock >= ? "
            "ORDER BY logical_clock"
        )
        self._append = self._sql(f"INSERT INTO diffs ({names}) VALUES ({marks})")
        self._set_head = self._sql("UPDATE diffs_heads SET logical_clock = ? WHERE owner = ?")

    def sync_pooled(self, engine: Engine, body: bytes) -> bytes:
        """Do what sync() does over a connection that the engine's pool gives and takes back."""
        pooled = engine.raw_connection()
        try:
            self._connection = pooled
            return self.sync(body)
        finally:
            pooled.close()

    def sync(self, body: bytes) -> bytes:
        """Take in a request with at most one update, and answer it.

        Its token names the owner, who has a head.
        """
        request = json.loads(body)
        cursor = self._connection.cursor()
        try:
            reply = self._in_transaction(cursor, request)
            self._connection.commit()
        except BaseException:
            self._connection.rollback()
            raise
        finally:
            cursor.close()
        return json.dumps(reply).encode()

    def _in_transaction(self, cursor: Any, request: dict[str, Any]) -> dict[str, Any]:
        owner = request["auth_token"]
        if self._begin:
            cursor.execute(self._begin)
        cursor.execute(self._lock, (owner,))
        clock = cursor.fetchone()[0]
        cursor.execute(self._window, (owner, request["logical_clock"]))
        news = [dict(zip(LOG_COLUMNS, row, strict=True)) for row in cursor.fetchall()]
        for diff in request["diffs"]:
            clock += 1
            self._write(cursor, {**diff, "owner": owner, "logical_clock": clock})
            cursor.execute(self._set_head, (clock, owner))
        return {"success": True, "message": "", "logical_clock": clock + 1, "diffs": news}

    def _write(self, cursor: Any, diff: Diff) -> None:
        row = json.loads(diff["json_data"])
        fields = [name for name in row if name in TASK_FIELDS]
        changes = ", ".join(f"{name} = ?" for name in fields)
        cursor.execute(
            self._sql(f"UPDATE tasks SET {changes} WHERE id = ? AND owner = ?"),
            (*(row[name] for name in fields), row["id"], diff["owner"]),
        )
        cursor.execute(self._append, tuple(diff[name] for name in LOG_COLUMNS))

    def _sql(self, text: str) -> str:
        return text.replace("?", self._mark).replace('"', self._quote)
