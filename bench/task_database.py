"""The task app in a real database, as mobync.sqlalchemy and as a hand-written endpoint see it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    insert,
    text,
)
from sqlalchemy.engine import URL, Engine
from sqlalchemy.exc import OperationalError
from workload import Diff

from mobync import Mobync
from mobync.sqlalchemy import SQLAlchemySynchronizer, diffs_table

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from databases import open_database, server_url

__all__ = ["KINDS", "TaskDatabase", "answers", "open_database", "open_tasks", "task_row"]

KINDS = ("sqlite", "postgresql")


class TaskDatabase:
    """Tables in an empty database, an engine, and mobync on them."""

    def __init__(self, url: URL) -> None:
        self.engine: Engine = create_engine(url)
        if url.get_backend_name() == "sqlite":
            event.listen(self.engine, "connect", _no_flush_at_commit)
        metadata = MetaData()
        self.tasks = Table(
            "tasks",
            metadata,
            Column("id", String(40), primary_key=True),
            Column("owner", String(64), nullable=False),
            Column("name", String(200)),
            Column("notes", Text),
            Column("done", Boolean),
            Column("priority", Integer),
            Column("due", String(10)),
            Column("list_name", String(100)),
        )
        self.log = diffs_table(metadata)
        metadata.create_all(self.engine)
        self.store = SQLAlchemySynchronizer(self.engine, {"tasks": self.tasks})
        self.mobync = Mobync(self.store)
        self._server_schedule = self._find_server_schedule()

    def processor_time(self) -> float:
        """Seconds that this process has computed so far, and the server for our connection."""
        if self._server_schedule is None:
            return time.process_time()
        return time.process_time() + int(self._server_schedule.read_text().split()[0]) / 1e9

    def _find_server_schedule(self) -> Path | None:
        """Where the kernel tells how long PostgreSQL's process for our connection has run."""
        if self.engine.dialect.name == "sqlite":
            return None
        with self.engine.connect() as connection:
            backend = connection.scalar(text("SELECT pg_backend_pid()"))
        path = Path(f"/proc/{backend}/schedstat")
        return path if path.exists() else None  # a server on another machine

    def fill_log(self, rows: list[Diff]) -> None:
        """Write rows into the log as they are."""
        with self.engine.begin() as connection:
            connection.execute(insert(self.log), rows)


def _no_flush_at_commit(connection: Any, record: Any) -> None:
    """As mobync and everybody else would run it in WAL mode; otherwise the disk is measured."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")


def task_row(diff: Diff, owner: str) -> dict[str, Any]:
    """The app's row of a create."""
    return {**json.loads(diff["json_data"]), "owner": owner}


def answers(kind: str) -> bool:
    """Whether a database of this kind is there."""
    if kind == "sqlite":
        return True
    engine = create_engine(server_url(kind))
    try:
        engine.connect().close()
    except OperationalError:
        return False
    finally:
        engine.dispose()
    return True


@contextmanager
def open_tasks(kind: str, directory: Path) -> Iterator[TaskDatabase]:
    """An empty task database, which is gone afterwards."""
    with open_database(kind, directory) as database:
        tasks = TaskDatabase(database.url)
        try:
            yield tasks
        finally:
            tasks.engine.dispose()
