"""mobync.sqlalchemy: a request without diffs takes no lock and waits for nobody."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from operator import itemgetter
from typing import Any

import databases
import pytest
from databases import Database
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool
from task_list import TaskList, diff, statements

from mobync import FilterType, LogicalClockError, Mobync, ReadFilter, SyncReport
from mobync._relational.read_window import ReadWindow
from mobync.clients import RxDB
from mobync.sqlalchemy import SQLAlchemySynchronizer, _synchronizer
from mobync.sqlalchemy._talks import can_read

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


# ---- one statement -------------------------------------------------------------------------------


@pytest.fixture
def windows(database: Database, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many diffs each window had that was read in one statement, without a transaction."""
    if not can_read(database.engine):
        pytest.skip("asyncpg does not read so")
    counts: list[int] = []
    made = _synchronizer.ReadWindow

    def make(highest: int, states: Any, first_clock: int, rows: Sequence[Any]) -> Any:
        counts.append(len(rows))
        return made(highest, states, first_clock, rows)

    monkeypatch.setattr(_synchronizer, "ReadWindow", make)
    return counts


def filled(tasks: TaskList, count: int) -> list[dict[str, Any]]:
    """Log that many creates after the first; returns what a new device then gets."""
    made = [diff("create", id=f"{n}", name=f"nr {n}") for n in range(count)]
    Mobync(tasks.store).apply(1, made, "bob")
    return [{**each, "owner": "bob", "logical_clock": 1 + n} for n, each in enumerate(made)]


def test_a_short_window_is_read_in_one_statement(tasks, windows):
    made = filled(tasks, 3)
    mobync = Mobync(tasks.store)
    for clock in (1, 2, 3):
        reply = mobync.apply(clock, [], "bob")
        assert (reply["logical_clock"], by_clock(reply)) == (4, made[clock - 1 :])
    assert windows == [3, 2, 1]
    listening = tasks.another_store(tasks.database.new_engine())
    event.listen(listening._source.engine, "before_cursor_execute", lambda *_: None)
    assert by_clock(Mobync(listening).apply(1, [], "bob")) == made
    assert windows == [3, 2, 1]


def by_clock(reply: Any) -> list[dict[str, Any]]:
    return sorted(reply["diffs"], key=itemgetter("logical_clock"))


def test_so_is_the_last_page_and_others_read_only_what_they_have(tasks, windows):
    made = filled(tasks, 3)
    mobync, got, cursor = Mobync(tasks.store), [], None
    while cursor is not None or not got:
        reply = mobync.apply(1, [], "bob", limit=1, cursor=cursor)
        got += reply["diffs"]
        cursor = reply.get("cursor")
    assert got == made
    assert windows == [1]


def test_a_long_window_is_read_in_pieces(tasks, windows, monkeypatch):
    monkeypatch.setattr(_synchronizer, "PIECE_ROWS", 3)
    made = filled(tasks, 4)
    assert by_clock(Mobync(tasks.store).apply(1, [], "bob")) == made
    assert windows == []
    assert by_clock(Mobync(tasks.store).apply(2, [], "bob")) == made[1:]
    assert windows == [3]


def test_what_was_committed_since_the_poll_is_in_the_window(database, windows):
    class Overtaken(SQLAlchemySynchronizer):
        def _reading_window(self, *arguments: Any) -> Any:
            overtake()
            return super()._reading_window(*arguments)

    tasks = TaskList(database, Overtaken)
    mobync, other = Mobync(tasks.store), Mobync(tasks.another_store())
    other.apply(0, [diff("create", id=id_, name="milk") for id_ in "ab"], "bob")
    overtake = lambda: other.apply(2, [diff("create", id="c", name="eggs")], "bob")  # noqa: E731
    reply = mobync.apply(1, [], "bob")
    assert (reply["logical_clock"], len(reply["diffs"])) == (3, 2)
    overtake = lambda: other.erase("bob")  # noqa: E731
    with pytest.raises(LogicalClockError, match="ahead") as caught:
        mobync.apply(2, [], "bob")
    assert caught.value.ahead
    assert windows == [2]  # there is no head any more


def test_a_method_of_the_apps_own_is_read_with(database, windows):
    class Own(SQLAlchemySynchronizer):
        def read_log(self, where: str, filters: Sequence[ReadFilter]) -> Any:
            asked.append(where)
            return super().read_log(where, filters)

    asked: list[str] = []
    mobync = Mobync(TaskList(database, Own).store)
    mobync.apply(0, [diff("create", id="a", name="milk")], "bob")
    assert len(mobync.apply(0, [], "bob")["diffs"]) == 1
    assert (asked, windows) == (["diffs"], [])


def test_so_is_one_that_a_decorator_made_of_ours(database, windows):
    def traced(method: Any) -> Any:
        @wraps(method)
        def trace(*arguments: Any) -> Any:
            asked.append(method.__name__)
            return method(*arguments)

        return trace

    class Traced(SQLAlchemySynchronizer):
        read_log = traced(SQLAlchemySynchronizer.read_log)

    asked: list[str] = []
    mobync = Mobync(TaskList(database, Traced).store)
    mobync.apply(0, [diff("create", id="a", name="milk")], "bob")
    assert len(mobync.apply(0, [], "bob")["diffs"]) == 1
    assert (asked, windows) == (["read_log"], [])


@pytest.mark.parametrize("is_of_the_engine", [False, True])
@pytest.mark.parametrize("level", ["READ UNCOMMITTED", "SERIALIZABLE"])
def test_what_is_not_committed_is_not_in_it_nor_waited_for(tasks, level, is_of_the_engine):
    if (tasks.database.engine.dialect.driver, level) == ("asyncpg", "READ UNCOMMITTED"):
        pytest.skip("asyncpg has no such level")
    chosen: dict[str, Any] = {"isolation_level": level}
    options = {"execution_options": chosen} if is_of_the_engine else chosen
    mobync = Mobync(tasks.another_store(tasks.database.new_engine(**options)))
    assert len(mobync.apply(0, [], "bob")["diffs"]) == 1
    with tasks.store.transaction("bob") as writing:
        made = {**diff("create", id="b", name="eggs"), "owner": "bob", "logical_clock": 1}
        writing.create("tasks", made["json_data"])
        writing.create("diffs", json.dumps(made))
        reply = mobync.apply(0, [], "bob")
        assert (reply["logical_clock"], len(reply["diffs"])) == (1, 1)
    assert len(mobync.apply(1, [], "bob")["diffs"]) == 1


def test_it_opens_no_connection_that_it_cannot_read_with(tasks, windows):
    engine = tasks.database.new_engine(poolclass=NullPool)
    mobync, opened = Mobync(tasks.another_store(engine)), []
    mobync.apply(1, [], "bob")
    event.listen(engine.pool, "connect", lambda *_: opened.append(1))
    assert len(mobync.apply(0, [], "bob")["diffs"]) == 1
    assert (len(opened), len(windows)) == (2, tasks.database.kind == "sqlite")


def test_a_window_that_was_read_knows_what_it_lacks():
    rows = [(str(clock), "bob", clock, 7, "create", "tasks", "{}") for clock in (5, 6, 7)]
    window = ReadWindow(7, {}, 5, rows)
    owner = ReadFilter("owner", FilterType.equal, "bob")
    later = ReadFilter("logical_clock", FilterType.majorOrEqual, 6)
    assert window.read_log("diffs", [owner, later]) == rows[1:]
    before = ReadFilter("logical_clock", FilterType.minor, 7)
    assert window.read_log("diffs", [owner, later, before]) == rows[1:2]
    deletes = ReadFilter("type", FilterType.equal, "delete")
    assert window.read_log("diffs", [owner, later, deletes]) == []
    for filters in ([owner], [owner, ReadFilter("logical_clock", FilterType.majorOrEqual, 4)]):
        with pytest.raises(RuntimeError, match="from clock 5 on"):
            window.read_log("diffs", filters)
    with pytest.raises(RuntimeError, match="only read"):
        window.write_devices("bob", {})


def test_a_window_that_was_read_knows_which_devices_it_has():
    window = ReadWindow(-1, {"": "{}", "phone": None}, 0, [])
    assert window.read_devices("bob", ["", "phone"]) == {"": "{}"}
    for names in (None, ["tablet"]):
        with pytest.raises(RuntimeError, match=r"only \['', 'phone'\]"):
            window.read_devices("bob", names)
    assert ReadWindow(-1, None, 0, []).read_devices("bob", [""]) is None


def test_what_is_stored_for_a_device_is_read_once_for_all_diffs(tasks, windows, monkeypatch):
    read: list[Any] = []

    def reading(*arguments: Any) -> Any:
        rows = read_directly(*arguments)
        read.extend(rows or ())
        return rows

    read_directly = _synchronizer.read_directly
    monkeypatch.setattr(_synchronizer, "read_directly", reading)
    filled(tasks, 3)
    replication = RxDB().replicate(Mobync(tasks.store))
    asked = {"collection": "tasks", "checkpoint": None, "limit": 10}
    for _ in range(2):
        replication.pull(json.dumps(asked).encode(), "bob", "phone")
    kept = tasks.store.read_devices("bob", ["", "phone"])
    read.clear()
    RxDB().replicate(Mobync(tasks.store)).pull(json.dumps(asked).encode(), "bob", "phone")
    assert windows[-1] == 4
    assert [sum(text in row for row in read) for text in kept.values()] == [1, 1]


def test_documents_of_other_clients_are_followed_in_one_statement(tasks, windows, monkeypatch):
    made = filled(tasks, 3)
    replication = RxDB().replicate(Mobync(tasks.store))

    def pull(checkpoint: Any) -> Any:
        asked = {"collection": "tasks", "checkpoint": checkpoint, "limit": 10}
        return json.loads(replication.pull(json.dumps(asked).encode(), "bob", "phone"))

    first = pull(None)
    assert sorted(each["id"] for each in first["documents"]) == ["0", "1", "2", "a"]
    assert (pull(first["checkpoint"])["documents"], windows) == ([], [4, 1])
    Mobync(tasks.store).apply(4, [diff("update", id="0", name="new")], "bob")
    (changed,) = pull(first["checkpoint"])["documents"]
    assert (changed["id"], changed["name"], windows) == ("0", "new", [4, 1, 2])

    monkeypatch.setattr(_synchronizer, "PIECE_ROWS", 3)
    again = RxDB().replicate(Mobync(tasks.store))
    asked = {"collection": "tasks", "checkpoint": None, "limit": 10}
    whole = json.loads(again.pull(json.dumps(asked).encode(), "bob", "tablet"))
    assert len(whole["documents"]) == len(made) + 1
    assert len(windows) == 3  # the log is longer than what one statement may read


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
