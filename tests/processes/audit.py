"""What must hold of a database of examples/relational at any time, whatever was killed."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection, Engine

Rows = dict[tuple[str, str], dict[str, Any]]

TABLES = {
    "projects": ("name", "archived"),
    "tasks": ("name", "done", "project_id"),
}
BOOLEANS = {"archived", "done"}


def audit(engine: Engine, owner: str) -> None:
    """Check an owner's log and tables against each other, in one snapshot.

    The clocks run from 0 without a gap to what the owner's head says, and the log, played from
    its beginning, gives the rows that are in the tables.
    """
    with _snapshot(engine) as connection:
        log = _log(connection, owner)
        head = connection.scalar(
            text("SELECT logical_clock FROM diffs_heads WHERE owner = :owner"), {"owner": owner}
        )
        stored = _table_rows(connection, owner)
    clocks = [row["logical_clock"] for row in log]
    assert clocks == list(range(len(log))), f"the clocks of {owner} have a gap: {clocks}"
    assert (-1 if head is None else head) == len(log) - 1, f"the head of {owner} says {head}"
    ids = [row["id"] for row in log]
    assert len(set(ids)) == len(ids), f"the log of {owner} has a diff twice"
    assert _replayed(log) == stored, f"the log of {owner} says other rows than the tables"


def logged_ids(engine: Engine, owner: str) -> set[str]:
    with engine.connect() as connection:
        return {row["id"] for row in _log(connection, owner)}


def table_rows(engine: Engine, owner: str) -> Rows:
    """An owner's rows by model and id, without the fields that are null."""
    with engine.connect() as connection:
        return _table_rows(connection, owner)


def _snapshot(engine: Engine) -> Connection:
    if engine.dialect.name != "sqlite":
        engine = engine.execution_options(isolation_level="REPEATABLE READ")
    connection = engine.connect()
    if engine.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN")
    return connection


def _log(connection: Connection, owner: str) -> list[dict[str, Any]]:
    found = connection.execute(
        text("SELECT * FROM diffs WHERE owner = :owner ORDER BY logical_clock"), {"owner": owner}
    )
    return [dict(row) for row in found.mappings()]


def _table_rows(connection: Connection, owner: str) -> Rows:
    rows: Rows = {}
    for model, fields in TABLES.items():
        found = connection.execute(
            text(f"SELECT id, {', '.join(fields)} FROM {model} WHERE owner = :owner"),
            {"owner": owner},
        )
        for row in found.mappings():
            rows[model, row["id"]] = {
                field: bool(row[field]) if field in BOOLEANS else row[field]
                for field in fields
                if row[field] is not None
            }
    return rows


def _replayed(log: list[dict[str, Any]]) -> Rows:
    rows: Rows = {}
    for diff in log:
        fields = json.loads(diff["json_data"])
        key = diff["model"], fields.pop("id")
        if diff["type"] == "create":
            assert key not in rows, f"{key} was created twice"
            rows[key] = fields
        elif diff["type"] == "delete":
            rows.pop(key, None)
        elif key in rows:
            rows[key].update(fields)
    return {
        key: {field: value for field, value in row.items() if value is not None}
        for key, row in rows.items()
    }
