"""A task list to sync, for the tests of mobync.sqlalchemy."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from databases import Database
from sqlalchemy import Boolean, Column, Integer, MetaData, String, Table, event
from sqlalchemy.engine import Engine

from mobync.sqlalchemy import SQLAlchemySynchronizer


def diff(kind: str, model: str = "tasks", **row: Any) -> dict[str, Any]:
    """A diff as a device sends it."""
    return {
        "id": str(uuid.uuid4()),
        "owner": "whoever",
        "logical_clock": 0,
        "utc_timestamp": 1_700_000_000_000,
        "type": kind,
        "model": model,
        "json_data": json.dumps(row),
    }


def task_table(metadata: MetaData) -> Table:
    return Table(
        "tasks",
        metadata,
        Column("id", String(40), primary_key=True),
        Column("owner", String(64), nullable=False),
        Column("name", String(100)),
        Column("rank", Integer),
        Column("done", Boolean),
    )


class TaskList:
    """The tables of a task list in an empty database, and a synchronizer on them."""

    def __init__(
        self, database: Database, store: type[SQLAlchemySynchronizer] = SQLAlchemySynchronizer
    ) -> None:
        self.database = database
        self.metadata = MetaData()
        self.tasks = task_table(self.metadata)
        self._store = store
        self.store = self.another_store(engine=database.engine)
        self.metadata.create_all(database.engine)

    def another_store(self, engine: Any = None, **options: Any) -> Any:
        """A synchronizer as another server process has it: with an engine of its own."""
        engine = self.database.new_engine() if engine is None else engine
        return self._store(engine, {"tasks": self.tasks}, **options)

    def rows(self, owner: str = "bob") -> dict[str, dict[str, Any]]:
        """An owner's tasks by id, as another connection sees them."""
        with self.another_store().transaction(owner) as inside:
            return {row["id"]: row for row in inside.read("tasks")}

    def log(self, owner: str = "bob") -> list[dict[str, Any]]:
        """An owner's log in its order, as another connection sees it."""
        with self.another_store().transaction(owner) as inside:
            return sorted(inside.read("diffs"), key=lambda row: row["logical_clock"])


@contextmanager
def statements(engine: Engine) -> Iterator[list[str]]:
    """Note the statements that an engine executes; one for many rows of values counts once."""
    seen: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *others: Any) -> None:
        seen.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", note)
