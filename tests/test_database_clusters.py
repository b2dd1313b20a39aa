"""A node or a replica that is behind tells no device that the server has lost its diffs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from databases import Database, open_database
from sqlalchemy import event, text
from task_list import TaskList, diff

from mobync import Mobync, UnavailableError
from mobync.sqlalchemy import _locking, _settings

SYNC_WAIT = "SELECT @@SESSION.wsrep_sync_wait"


@pytest.fixture
def mariadb(tmp_path: Path) -> Iterator[Database]:
    with open_database("mariadb", tmp_path) as opened:
        yield opened


def waits_when_locking(tasks: TaskList, before: int) -> tuple[list[int], int]:
    """What wsrep_sync_wait is when the owner is locked, and afterwards."""
    engine = tasks.database.new_engine(pool_size=1, max_overflow=0)
    seen: list[int] = []

    @event.listens_for(engine, "connect")
    def execute(connection: Any, record: Any) -> None:
        connection.cursor().execute(f"SET SESSION wsrep_sync_wait = {before}")

    @event.listens_for(engine, "before_cursor_execute")
    def note(connection: Any, cursor: Any, statement: str, *others: Any) -> None:
        if "FOR UPDATE" in statement:
            beside = connection.connection.cursor()
            beside.execute(SYNC_WAIT)
            seen.append(beside.fetchone()[0])

    Mobync(tasks.another_store(engine)).apply(0, [diff("create", id="a")], "bob")
    with engine.connect() as connection:
        return seen, connection.scalar(text(SYNC_WAIT))


def test_a_galera_node_catches_up_before_an_owner_is_locked(
    mariadb: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = TaskList(mariadb)
    assert waits_when_locking(tasks, 0) == ([0, 0], 0)

    looked_at = _settings.mysql_settings

    def of_galera(connection: Any) -> Any:
        found = looked_at(connection)
        assert found is not None
        return found._replace(is_galera=True)

    monkeypatch.setattr(_locking, "mysql_settings", of_galera)
    with tasks.store.transaction("bob"):
        pass  # leaves a head, so that one lock is enough
    assert waits_when_locking(tasks, 0) == ([1], 0)
    assert waits_when_locking(tasks, 6) == ([7], 6)


def test_a_server_says_whether_it_is_a_node_of_galera(mariadb: Database) -> None:
    with mariadb.engine.connect() as connection:
        _settings.check_settings(connection, [])
        found = _settings.mysql_settings(connection)
        is_on = connection.scalar(text("SELECT @@wsrep_on"))
    assert found is not None
    assert found.is_galera is bool(is_on)


def test_a_replica_that_is_behind_is_an_outage_and_drops_nobodys_rows(
    mariadb: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = TaskList(mariadb)
    engine = mariadb.new_engine(pool_size=1, max_overflow=0)
    mobync = Mobync(tasks.another_store(engine))
    mobync.apply(0, [diff("create", id="a")], "bob")
    with engine.connect() as connection:
        first = connection.scalar(text("SELECT connection_id()"))

    with monkeypatch.context() as behind:
        behind.setattr(_locking, "_READ_ONLY", "'ON'")
        replica = Mobync(tasks.another_store(engine))
        with pytest.raises(UnavailableError, match="read_only"):
            replica.apply(9, [], "bob")  # with the clock that the primary gave
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT connection_id()")) != first
    assert mobync.apply(1, [], "bob")["logical_clock"] == 1
