"""The task app in a real database, as mobync.sqlalchemy and as a hand-written endpoint see it."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
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
    select,
    text,
    update,
)
from sqlalchemy.engine import URL, Engine
from sqlalchemy.exc import OperationalError
from workload import Diff

from mobync import Mobync
from mobync.sqlalchemy import SQLAlchemySynchronizer, diffs_table
from mobync.sqlalchemy._tables import heads_of

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from databases import open_database, server_url

__all__ = [
    "KINDS",
    "TaskDatabase",
    "answering",
    "answers",
    "open_database",
    "open_tasks",
    "processor_clock",
    "task_row",
]

KINDS = ("sqlite", "postgresql", "mariadb")  # "mariadb": over PyMySQL

_THREAD_OF_SERVER = {
    "postgresql": "SELECT pg_backend_pid()",
    "mariadb": "SELECT tid FROM information_schema.processlist WHERE id = connection_id()",
}
_BY_BYTES: dict[str, Any] = {
    f"{dialect}_{option}": value
    for dialect in ("mysql", "mariadb")
    for option, value in {"charset": "utf8mb4", "collate": "utf8mb4_bin"}.items()
}


class TaskDatabase:
    """Tables in an empty database, an engine, and mobync on them."""

    def __init__(self, url: URL) -> None:
        self.engine: Engine = create_engine(url)
        if url.get_backend_name() == "sqlite":
            event.listen(self.engine, "connect", no_flush_at_commit)
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
            **_BY_BYTES,
        )
        self.log = diffs_table(metadata)
        self.heads = heads_of(self.log)
        metadata.create_all(self.engine)
        self.store = SQLAlchemySynchronizer(self.engine, {"tasks": self.tasks})
        self.mobync = Mobync(self.store)
        self.processor_time = processor_clock(self.engine)

    def fill_log(self, rows: list[Diff]) -> None:
        """Write rows into the log as they are."""
        with self.engine.begin() as connection:
            connection.execute(insert(self.log), rows)

    def grow_log(self, owner: str, begin: int, end: int) -> None:
        """Copy the owner's log of ``begin`` diffs until it has ``end``, in the database itself."""
        log, heads = self.log.c, self.heads
        while begin < end:
            changed = {"id": log.id + f"-{begin}", "logical_clock": log.logical_clock + begin}
            copies = select(*(changed.get(column.name, column) for column in log)).where(
                log.owner == owner, log.logical_clock < end - begin
            )
            with self.engine.begin() as connection:
                connection.execute(insert(self.log).from_select(list(log), copies))
            begin = min(2 * begin, end)
        with self.engine.begin() as connection:
            connection.execute(
                update(heads).where(heads.c.owner == owner).values(logical_clock=end - 1)
            )


def processor_clock(engine: Engine) -> Callable[[], float]:
    """Gives the seconds that this process has computed so far, and the server for the engine's
    one connection, as far as the kernel of this machine tells.
    """
    question = _THREAD_OF_SERVER.get(engine.dialect.name)
    if question is None:
        return time.process_time
    with engine.connect() as connection:
        schedule = Path(f"/proc/{connection.scalar(text(question))}/schedstat")
    if not schedule.exists():  # a server on another machine
        return time.process_time
    return lambda: time.process_time() + int(schedule.read_text().split()[0]) / 1e9


def no_flush_at_commit(connection: Any, record: Any) -> None:
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


def answering(kinds: Iterable[str], notes: list[str]) -> Iterator[str]:
    """The databases that are there; a note says which are not."""
    for kind in kinds:
        if answers(kind):
            yield kind
        else:
            notes.append(f"{kind} is left out: no server answers (tests/databases.py).")


@contextmanager
def open_tasks(kind: str) -> Iterator[TaskDatabase]:
    """An empty task database, which is gone afterwards."""
    with (
        tempfile.TemporaryDirectory() as directory,
        open_database(kind, Path(directory)) as database,
    ):
        tasks = TaskDatabase(database.url)
        try:
            yield tasks
        finally:
            tasks.engine.dispose()
