"""mobync.sqlalchemy: a request without diffs takes no lock and waits for nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import databases
import pytest
from databases import Database
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session
from task_list import TaskList, diff, statements

from mobync import LogicalClockError, Mobync, SyncReport
from mobync.sqlalchemy import SQLAlchemySynchronizer

database = databases.database


@pytest.fixture
def tasks(database: Database) -> TaskList:
    tasks = TaskList(database)
    Mobync(tasks.store).apply(0, [diff("create", id="a", name="milk")], "bob")
    return tasks


@contextmanager
def before_each(engine: Engine, act: Callable[[str], object]) -> Iterator[None]:
    def note(connection: Any, cursor: Any, statement: str, *others: Any) -> None:
        act(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", note)


def is_window(statement: str) -> bool:
    return statement.startswith("SELECT") and "json_data" in statement


# ---- what it costs ------------------------------------------------------------------------------


@pytest.mark.parametrize("has_polled", [False, True])
def test_a_device_that_has_everything_costs_one_read_of_the_head(tasks, has_polled):
    mobync = Mobync(tasks.store)
    if has_polled:  # then the process remembers that devices without a name are noted
        mobync.apply(1, [], "bob")
    with statements(tasks.database.engine) as seen:
        reply = mobync.apply(1, [], "bob")
    assert reply == {"success": True, "message": "", "logical_clock": 1, "diffs": []}
    assert [each.split()[:2] for each in seen] == [["SELECT", "diffs_heads.logical_clock,"]]
    assert "FOR UPDATE" not in seen[0]


def test_so_does_one_that_asks_for_pages_and_one_that_speaks_json(tasks):
    mobync = Mobync(tasks.store)
    mobync.apply(1, [], "bob")
    with statements(tasks.database.engine) as seen:
        assert mobync.apply(1, [], "bob", limit=10)["more"] is False
        assert b'"diffs": []' in mobync.apply_json('{"logical_clock": 1, "diffs": []}', "bob")
    assert len(seen) == 2


def test_an_owner_without_a_log_gets_none_by_asking(tasks):
    assert Mobync(tasks.store).apply(0, [], "nobody")["logical_clock"] == 0
    assert list(tasks.store.owners()) == ["bob"]


def test_listeners_hear_of_it(tasks):
    mobync, told = Mobync(tasks.store), []
    mobync.listen(told.append)
    mobync.apply(1, [], "bob")
    mobync.apply(0, [], "bob")
    assert told == [SyncReport("bob", 1, seen_clock=1), SyncReport("bob", 1, sent=1)]


# ---- what it waits for --------------------------------------------------------------------------


def test_it_does_not_wait_for_the_lock_of_the_owner(tasks):
    mobync = Mobync(tasks.another_store(lock_timeout_s=0))
    with tasks.store.transaction("bob") as writing:
        writing.create("tasks", diff("create", id="b", name="eggs")["json_data"])
        assert mobync.apply(1, [], "bob")["diffs"] == []
        assert len(mobync.apply(0, [], "bob")["diffs"]) == 1


def test_it_does_not_wait_for_a_sync_of_its_process(database):
    class Asking(SQLAlchemySynchronizer):
        def validate_create(self, owner_id: str, **diff: Any) -> bool:
            replies.append(mobync.apply(0, [], owner_id))
            return True

    replies: list[Any] = []
    mobync = Mobync(TaskList(database, Asking).store)
    mobync.apply(0, [diff("create", id="a", name="milk")], "bob")
    mobync.apply(1, [diff("create", id="b", name="eggs")], "bob")
    assert [len(reply["diffs"]) for reply in replies] == [0, 1]


# ---- what it sees -------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [None, 100])
def test_the_window_is_of_the_same_moment_as_the_head(tasks, limit):
    other = Mobync(tasks.another_store())
    pushed = []

    def push(statement: str) -> None:
        if is_window(statement) and not pushed:
            pushed.append(other.apply(1, [diff("create", id="b", name="eggs")], "bob"))

    mobync = Mobync(tasks.store)
    with before_each(tasks.database.engine, push):
        reply = mobync.apply(0, [], "bob", limit=limit)
    assert len(pushed) == 1
    assert (reply["logical_clock"], len(reply["diffs"])) == (1, 1)
    assert [row["logical_clock"] for row in mobync.apply(1, [], "bob")["diffs"]] == [1]


def test_a_clock_that_is_ahead_is_refused_as_ever(tasks):
    with pytest.raises(LogicalClockError, match="ahead") as caught:
        Mobync(tasks.store).apply(2, [], "bob")
    assert caught.value.ahead


@pytest.mark.parametrize("lags", ["head", "snapshot"])
def test_a_server_that_is_behind_does_not_make_a_device_drop_its_rows(database, lags):
    class Behind(SQLAlchemySynchronizer):
        def highest_logical_clock(self, owner_id: str) -> int:
            if self._open is None:
                return 0 if lags == "head" else 2
            return super().highest_logical_clock(owner_id)

        def _read_clock(self, connection: Any, owner_id: str, read: Any) -> int:
            return 0

    mobync = Mobync(TaskList(database, Behind).store)
    sent = [diff("create", id=id_, name="milk") for id_ in ("a", "b")]
    assert mobync.apply(0, sent, "bob")["logical_clock"] == 2
    assert mobync.apply(2, [], "bob") == {
        "success": True, "message": "", "logical_clock": 2, "diffs": [],
    }  # fmt: skip


# ---- where it is not offered --------------------------------------------------------------------


def test_the_apps_session_and_a_transaction_of_the_apps_own_are_read_in(tasks):
    class Owned(SQLAlchemySynchronizer):
        @contextmanager
        def transaction(self, owner_id: str) -> Iterator[Any]:
            entered.append(owner_id)
            with super().transaction(owner_id) as inside:
                yield inside

    entered: list[str] = []
    engine = tasks.database.engine
    Mobync(Owned(engine, {"tasks": tasks.tasks})).apply(1, [], "bob")
    assert entered == ["bob"]
    with Session(engine) as session:
        store = SQLAlchemySynchronizer(session, {"tasks": tasks.tasks})
        assert store.reading("bob") is None
        assert len(Mobync(store).apply(0, [], "bob")["diffs"]) == 1
