"""mobync.sqlalchemy: all or nothing, one sync of an owner at a time, and what that costs."""

from __future__ import annotations

import json
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import databases
import pytest
from databases import Database, open_database
from sqlalchemy import Column, MetaData, String, Table, UniqueConstraint, create_engine, event, text
from sqlalchemy.exc import DBAPIError, OperationalError
from task_list import TaskList, diff, statements

from mobync import (
    BusyError,
    Diff,
    FilterType,
    InvalidDiffError,
    Mobync,
    ReadFilter,
    Synchronizer,
    UnavailableError,
)
from mobync.sqlalchemy import SQLAlchemySynchronizer, diffs_table

database = databases.database

PATIENCE_S = 30  # for threads that are sure to come

# SQLite has one writer at a time and one isolation level, and a file drops no connection.
on_servers = pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)


@pytest.fixture
def tasks(database: Database) -> TaskList:
    return TaskList(database)


def test_a_synchronizer_works_on_a_copy_of_all_that_it_is(tasks):
    class Slotted(SQLAlchemySynchronizer):
        __slots__ = ("said",)

        def validate_create(self, owner_id: str, **diff: Any) -> bool:
            seen.append((self.said, self is not store))
            return True

    class Copied(Slotted):
        def __copy__(self) -> Copied:
            copied = Copied(tasks.database.engine, {"tasks": tasks.tasks})
            copied.__dict__.update(self.__dict__)
            copied.said = "by its own copy"
            return copied

    seen: list[tuple[str, bool]] = []
    for number, kind in enumerate((Slotted, Copied)):
        store = kind(tasks.database.engine, {"tasks": tasks.tasks})
        store.said = "by its slots"
        Mobync(store).apply(0, [diff("create", id=f"{number}", name="milk")], f"owner {number}")
    assert seen == [("by its slots", True), ("by its own copy", True)]


# ---- all or nothing -----------------------------------------------------------------------------


def test_what_a_device_sends_reaches_the_table_the_log_and_the_other_device(tasks):
    mobync = Mobync(tasks.store)
    phone = [diff("create", id="a", name="milk"), diff("create", id="b", name="eggs")]
    assert mobync.apply(0, phone, "bob")["logical_clock"] == 2

    tablet = mobync.apply(0, [diff("create", id="c", name="tea")], "bob")
    later = [diff("update", id="a", done=True), diff("delete", id="b")]
    mobync.apply(3, later, "bob")

    assert [sent["json_data"] for sent in tablet["diffs"]] == [d["json_data"] for d in phone]
    assert tasks.rows() == {
        "a": {"id": "a", "name": "milk", "rank": None, "done": True},
        "c": {"id": "c", "name": "tea", "rank": None, "done": None},
    }
    assert [row["logical_clock"] for row in tasks.log()] == [0, 1, 2, 3, 4]
    assert {row["owner"] for row in tasks.log()} == {"bob"}


def test_an_exception_of_a_rule_reaches_the_caller_and_nothing_stays(database):
    class Refusing(SQLAlchemySynchronizer):
        def validate_update(self, owner_id: str, **diff: Any) -> bool:
            raise LookupError("the app's own")

    tasks = TaskList(database, Refusing)
    sent = [diff("create", id="a", name="milk"), diff("update", id="b", name="eggs")]
    with pytest.raises(LookupError, match="the app's own"):
        Mobync(tasks.store).apply(0, sent, "bob")
    assert tasks.rows() == {}
    assert tasks.log() == []


def test_an_error_in_the_middle_of_writing_leaves_nothing_behind(database):
    class Failing(SQLAlchemySynchronizer):
        def delete_many(self, where: str, rows_json: Any) -> None:
            raise OSError("no more")

    tasks = TaskList(database, Failing)
    sent = [diff("create", id="a", name="milk"), diff("delete", id="b")]
    with pytest.raises(OSError, match="no more"):
        Mobync(tasks.store).apply(0, sent, "bob")
    assert tasks.rows() == {}
    assert tasks.log() == []
    assert tasks.store.highest_logical_clock("bob") == -1


def test_a_unique_violation_in_the_apps_table_names_the_diff_and_nothing_stays(database):
    metadata = MetaData()
    people = Table(
        "people",
        metadata,
        Column("id", String(40), primary_key=True),
        Column("owner", String(40), nullable=False),
        Column("email", String(100)),
        UniqueConstraint("email"),
    )
    store = SQLAlchemySynchronizer(database.engine, {"people": people})
    metadata.create_all(database.engine)
    mobync = Mobync(store)
    mobync.apply(0, [diff("create", "people", id="a", email="x@y")], "bob")

    twice = [diff("create", "people", id="b"), diff("create", "people", id="c", email="x@y")]
    with pytest.raises(InvalidDiffError, match="another row has the same 'email'") as refusal:
        mobync.apply(1, twice, "bob")
    assert refusal.value.index == 1
    with store.transaction("bob") as inside:
        assert [row["id"] for row in inside.read("people")] == ["a"]
        assert len(inside.read("diffs")) == 1


@on_servers
def test_a_dropped_connection_is_an_outage_and_the_next_sync_works(database):
    class Cutting(SQLAlchemySynchronizer):
        cut = True

        def validate_create(self, owner_id: str, **diff: Any) -> bool:
            if type(self).cut:
                with self.connection.engine.connect() as another:
                    mine = self.connection.scalar(text(WHO[database.kind]))
                    another.execute(text(CUT[database.kind] % mine))
            return True

    tasks = TaskList(database, Cutting)
    sent = [diff("create", id="a", name="milk")]
    with pytest.raises(UnavailableError):
        Mobync(tasks.store).apply(0, sent, "bob")
    assert tasks.log() == []

    Cutting.cut = False
    Mobync(tasks.store).apply(0, sent, "bob")
    assert set(tasks.rows()) == {"a"}


@on_servers
def test_so_is_one_that_was_dropped_before_a_read_of_one_moment(database):
    tasks = TaskList(database)
    engine = database.new_engine(pool_size=1)
    mobync = Mobync(tasks.another_store(engine))
    mobync.apply(0, [diff("create", id="a", name="milk")], "bob")
    with engine.connect() as connection:
        mine = connection.scalar(text(WHO[database.kind]))
    with database.engine.connect() as another:
        another.execute(text(CUT[database.kind] % mine))
    with pytest.raises(UnavailableError):
        mobync.devices("bob")
    assert mobync.devices("bob") == []


WHO = {"postgresql": "SELECT pg_backend_pid()", "mariadb": "SELECT connection_id()"}
CUT = {"postgresql": "SELECT pg_terminate_backend(%d)", "mariadb": "KILL %d"}


def test_a_full_disk_is_an_error_and_leaves_nothing_behind(tmp_path):
    with open_database("sqlite", tmp_path) as database:
        tasks = TaskList(database)
        engine = database.new_engine()

        @event.listens_for(engine, "connect")
        def shrink(connection: Any, record: Any) -> None:
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count = {pages + 4}")

        sent = [diff("create", id=str(i), name="x" * 90) for i in range(1000)]
        with pytest.raises(UnavailableError) as caught:
            Mobync(tasks.another_store(engine)).apply(0, sent, "bob")
        assert "full" in str(caught.value.__cause__)
        assert tasks.rows() == {}
        assert tasks.log() == []


# ---- the owner's lock ---------------------------------------------------------------------------


def is_turned_away(store: SQLAlchemySynchronizer, owner: str) -> str:
    with pytest.raises(BusyError) as caught, store.transaction(owner):
        raise AssertionError("got in")
    return str(caught.value)


def test_while_one_process_syncs_an_owner_another_waits_and_then_gives_up(tasks):
    other_process = tasks.another_store(lock_timeout_s=0.2)
    with tasks.store.transaction("bob"):
        assert "0.2 s" in is_turned_away(other_process, "bob")
    with other_process.transaction("bob") as inside:
        assert inside.read("tasks") == []


def test_an_owner_who_has_no_diffs_yet_is_locked_like_any_other(tasks):
    with tasks.store.transaction("bob"):
        pass  # leaves a head
    other_process = tasks.another_store(lock_timeout_s=0.2)
    for owner in ("bob", "new"):
        with tasks.store.transaction(owner):
            is_turned_away(other_process, owner)


def test_another_owner_passes_at_once_except_on_sqlite_which_locks_the_file(tasks):
    other_process = tasks.another_store(lock_timeout_s=0.2)
    with tasks.store.transaction("bob") as bob:
        bob.create("tasks", '{"id": "b"}')
        bob.update("tasks", '{"id": "missing", "name": "x"}')
        bob.delete("tasks", '{"id": "missing"}')
        if tasks.database.kind == "sqlite":
            is_turned_away(other_process, "eve")
            return
        Mobync(other_process).apply(0, [diff("create", id="e")], "eve")
        assert set(tasks.rows("eve")) == {"e"}
    assert set(tasks.rows("bob")) == {"b"}


def test_a_sync_of_two_servers_at_once_is_busy_for_one_of_them(database):
    holding, let_go = threading.Event(), threading.Event()

    class Slow(SQLAlchemySynchronizer):
        def validate_create(self, owner_id: str, **diff: Any) -> bool:
            if not holding.is_set():
                holding.set()
                assert let_go.wait(PATIENCE_S)
            return True

    tasks = TaskList(database, Slow)
    first, second = Mobync(tasks.store), Mobync(tasks.another_store(lock_timeout_s=0.2))
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(first.apply, 0, [diff("create", id="a")], "bob")
        try:
            assert holding.wait(PATIENCE_S)
            with pytest.raises(BusyError):
                second.apply(0, [diff("create", id="b")], "bob")
        finally:
            let_go.set()
        assert slow.result(PATIENCE_S)["logical_clock"] == 1
    assert second.apply(1, [diff("create", id="b")], "bob")["logical_clock"] == 2


def test_a_sync_leaves_the_apps_own_time_outs_as_they_were(tasks):
    show = {
        "sqlite": "PRAGMA busy_timeout",
        "postgresql": "SHOW lock_timeout",
        "mariadb": "SELECT @@innodb_lock_wait_timeout",
    }[tasks.database.kind]
    engine = tasks.database.new_engine(pool_size=1, max_overflow=0)
    with engine.connect() as connection:
        before = connection.scalar(text(show))

    store = tasks.another_store(engine, lock_timeout_s=3)
    with store.transaction("bob") as inside:
        assert inside.connection.scalar(text(show)) in (3000, "3s", 3)
    with pytest.raises(OSError, match="stop"), store.transaction("bob"):
        raise OSError("stop")
    with engine.connect() as connection:
        assert connection.scalar(text(show)) == before
    with tasks.store.transaction("bob"):
        is_turned_away(tasks.another_store(engine, lock_timeout_s=0), "bob")
    with engine.connect() as connection:
        assert connection.scalar(text(show)) == before


@on_servers
def test_a_row_that_the_app_has_locked_is_waited_for_once_and_no_longer_than_for_an_owner(database):
    tries: list[str] = []

    class Counting(SQLAlchemySynchronizer):
        def update_many(self, where: str, rows_json: Any) -> None:
            tries.append(where)
            super().update_many(where, rows_json)

    tasks = TaskList(database, Counting)
    Mobync(tasks.store).apply(0, [diff("create", id="a", name="milk")], "bob")
    mobync = Mobync(tasks.another_store(lock_timeout_s=0.2))
    sent = [diff("update", id="a", name="rye")]
    with database.new_engine().begin() as app:
        app.execute(text("UPDATE tasks SET name = 'bread' WHERE id = 'a'"))
        with pytest.raises(BusyError, match=r"a row was locked .* longer than 0\.2 s"):
            mobync.apply(1, sent, "bob")
    assert tries == ["tasks"]
    mobync.apply(1, sent, "bob")
    assert tasks.rows()["a"]["name"] == "rye"


def test_many_threads_of_two_servers_write_one_owners_log_without_gap_or_fork(tasks):
    servers = [Mobync(tasks.store), Mobync(tasks.another_store())]

    def device(number: int) -> None:
        clock = 0
        for i in range(8):
            sent = [diff("create", id=f"{number}-{i}", name="x")]
            clock = servers[number % 2].apply(clock, sent, "bob")["logical_clock"]

    with ThreadPoolExecutor(6) as pool:
        for finished in [pool.submit(device, number) for number in range(6)]:
            finished.result(PATIENCE_S)
    assert [row["logical_clock"] for row in tasks.log()] == list(range(48))
    assert len(tasks.rows()) == 48


def test_a_transaction_in_a_transaction_is_refused(tasks):
    with (
        tasks.store.transaction("bob") as inside,
        pytest.raises(RuntimeError, match="open already"),
        inside.transaction("bob"),
    ):
        pass


def test_nothing_is_written_outside_of_a_transaction(tasks):
    for write in (tasks.store.create, tasks.store.update, tasks.store.delete):
        with pytest.raises(RuntimeError, match="only inside transaction"):
            write("tasks", '{"id": "a"}')
    with tasks.store.transaction("bob") as inside:
        pass
    with pytest.raises(RuntimeError, match="only inside transaction"):
        inside.create("tasks", '{"id": "a"}')
    with pytest.raises(RuntimeError, match="only inside transaction"):
        tasks.store.connection  # noqa: B018


# ---- what a transaction sees --------------------------------------------------------------------


@on_servers
@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_who_waited_for_the_lock_sees_what_its_holder_committed(database, level):
    tasks = TaskList(database)
    engine = database.new_engine().execution_options(isolation_level=level)
    waiting = threading.Event()
    event.listen(engine, "before_cursor_execute", lambda *_: waiting.set())
    patient = tasks.another_store(engine)

    with ThreadPoolExecutor(1) as pool:
        with tasks.store.transaction("bob") as holder:
            second = pool.submit(Mobync(patient).apply, 0, [diff("create", id="b")], "bob")
            assert waiting.wait(PATIENCE_S)
            holder.create("tasks", '{"id": "a"}')
            holder.create_many("diffs", [log_row(0, id="a")])
        reply = second.result(PATIENCE_S)

    assert [sent["json_data"] for sent in reply["diffs"]] == ['{"id": "a"}']
    assert reply["logical_clock"] == 2
    assert set(tasks.rows()) == {"a", "b"}


def log_row(clock: int, owner: str = "bob", **row: Any) -> str:
    return json.dumps({**diff("create", **row), "owner": owner, "logical_clock": clock})


@pytest.mark.parametrize("by", ["create_engine", "execution_options"])
def test_transactions_of_an_engine_that_commits_every_statement_hold_together_all_the_same(
    database, by
):
    tasks = TaskList(database)
    if by == "create_engine":
        engine = database.new_engine(isolation_level="AUTOCOMMIT")
    else:
        engine = database.new_engine().execution_options(isolation_level="AUTOCOMMIT")
    store = tasks.another_store(engine)
    with pytest.raises(OSError, match="stop"), store.transaction("bob") as inside:
        inside.create("tasks", '{"id": "a"}')
        is_turned_away(tasks.another_store(lock_timeout_s=0), "bob")
        raise OSError("stop")
    assert tasks.rows() == {}
    with store.transaction("bob") as inside:
        inside.create("tasks", '{"id": "a"}')
    assert set(tasks.rows()) == {"a"}


@on_servers
def test_a_deadlock_between_two_owners_is_begun_again_and_both_succeed(database):
    both_have_one = threading.Barrier(2)
    failures: list[Exception] = []

    class StepByStep(SQLAlchemySynchronizer):
        def update_many(self, where: str, rows_json: Any) -> None:
            super().update_many(where, rows_json[:1])
            if not failures:
                both_have_one.wait(PATIENCE_S)
            super().update_many(where, rows_json[1:])

        def is_transient(self, error: Exception) -> bool:
            failures.append(error)
            return super().is_transient(error)

    metadata = MetaData()
    words = Table(
        "words", metadata, Column("id", String(40), primary_key=True), Column("text", String(40))
    )
    log = diffs_table(metadata)
    metadata.create_all(database.engine)
    with database.engine.begin() as connection:
        connection.execute(words.insert(), [{"id": "1"}, {"id": "2"}])

    def edit(owner: str, first: str, second: str) -> int:
        store = StepByStep(database.new_engine(), {"words": words}, diffs=log, shared=["words"])
        sent = [diff("update", "words", id=i, text=owner) for i in (first, second)]
        return Mobync(store).apply(0, sent, owner)["logical_clock"]

    with ThreadPoolExecutor(2) as pool:
        bob = pool.submit(edit, "bob", "1", "2")
        eve = pool.submit(edit, "eve", "2", "1")
        assert (bob.result(PATIENCE_S), eve.result(PATIENCE_S)) == (2, 2)
    assert len(failures) == 1
    assert isinstance(failures[0], DBAPIError)


@pytest.mark.parametrize(
    "code", ["40001", "40P01", {"S": "ERROR", "C": "40P01"}, 1213, 1020], ids=str
)
def test_a_deadlock_is_transient_by_whatever_driver_it_comes(code, tmp_path):
    class Psycopg(Exception):
        sqlstate = code if isinstance(code, str) else None

    original = Psycopg("deadlock") if isinstance(code, str) else Exception(code)
    with open_database("sqlite", tmp_path) as database:
        store = TaskList(database).store
        assert store.is_transient(OperationalError("", {}, original))
        assert not store.is_transient(OperationalError("", {}, Exception({"C": "55P03"})))
        assert not store.is_transient(OperationalError("", {}, Exception(1205, "lock")))


def test_errors_that_will_not_pass_are_not_called_transient(tasks):
    with pytest.raises(DBAPIError) as caught, tasks.database.engine.connect() as connection:
        connection.execute(text("SELECT nonsense FROM nowhere"))
    assert not tasks.store.is_transient(caught.value)
    assert not tasks.store.is_transient(ValueError("deadlock"))


# ---- SQLite -------------------------------------------------------------------------------------


def test_a_sqlite_file_is_in_wal_mode_after_the_first_sync(tmp_path):
    with open_database("sqlite", tmp_path) as database:
        tasks = TaskList(database)
        with database.engine.connect() as connection:
            assert connection.scalar(text("PRAGMA journal_mode")) == "delete"
        Mobync(tasks.store).apply(0, [diff("create", id="a")], "bob")
        with database.new_engine().connect() as connection:
            assert connection.scalar(text("PRAGMA journal_mode")) == "wal"


def begin_by_sqlalchemys_recipe(engine: Any) -> None:
    @event.listens_for(engine, "connect")
    def do_connect(connection: Any, record: Any) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def do_begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN")


def begin_immediate_by_recipe(engine: Any) -> None:
    @event.listens_for(engine, "connect")
    def do_connect(connection: Any, record: Any) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA busy_timeout = 100")

    @event.listens_for(engine, "begin")
    def do_begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


@pytest.mark.parametrize("recipe", [begin_by_sqlalchemys_recipe, begin_immediate_by_recipe])
def test_an_app_that_begins_its_sqlite_transactions_itself_is_locked_just_as_well(tmp_path, recipe):
    with open_database("sqlite", tmp_path) as database:
        tasks = TaskList(database)
        engine = database.new_engine()
        recipe(engine)
        store = tasks.another_store(engine, lock_timeout_s=0.1)
        Mobync(store).apply(0, [diff("create", id="a")], "bob")
        with tasks.store.transaction("bob"):
            is_turned_away(store, "bob")
        with store.transaction("bob"):
            is_turned_away(tasks.another_store(lock_timeout_s=0), "bob")
        assert set(tasks.rows()) == {"a"}


@pytest.mark.skipif(not hasattr(sqlite3.Connection, "autocommit"), reason="new in Python 3.12")
def test_the_autocommit_attribute_of_pythons_driver_is_understood(tmp_path):
    with open_database("sqlite", tmp_path) as database:
        tasks = TaskList(database)
        engine = database.new_engine(connect_args={"autocommit": False})
        store = tasks.another_store(engine, lock_timeout_s=0)
        Mobync(store).apply(0, [diff("create", id="a")], "bob")
        with tasks.store.transaction("bob"):
            is_turned_away(store, "bob")
        assert set(tasks.rows()) == {"a"}


def test_a_database_that_mobync_cannot_lock_is_refused():
    metadata = MetaData()
    diffs_table(metadata)
    engine = create_engine("sqlite://")
    engine.dialect.name = "oracle"
    with pytest.raises(ValueError, match=r"sqlite, postgresql, mysql, mariadb.*not in 'oracle'"):
        SQLAlchemySynchronizer(engine, {}, diffs=metadata.tables["diffs"])
    engine.dispose()


# ---- what it costs ------------------------------------------------------------------------------

# The lock, the log, the head; on SQLite the begin; on MariaDB the isolation level, and the time to
# wait for a lock, set and set back.  So it is where the app is told of statements.
FIXED = {"sqlite": 4, "postgresql": 3, "mariadb": 6}
WINDOW = 1  # where there is news
NOTE = 1  # that a device without a name was seen: of an owner's first sync, and seldom again
MORE_FOR_THE_FIRST = {"sqlite": 3 + NOTE, "postgresql": 4 + NOTE, "mariadb": 3 + NOTE}
SAVEPOINT = 2  # to set and to release one, around each run of several rows


@pytest.mark.parametrize("count", [1, 500])
@pytest.mark.parametrize("kind", ["create", "update", "delete"])
def test_a_run_of_diffs_costs_one_statement_however_long_it_is(tasks, kind, count):
    mobync = Mobync(tasks.store)
    seed = [diff("create", id=str(i), name="old") for i in range(count)]
    clock = mobync.apply(0, seed, "bob")["logical_clock"]

    fields = {"delete": {}}.get(kind, {"name": "new"})
    first = count if kind == "create" else 0
    sent = [diff(kind, id=str(first + i), **fields) for i in range(count)]
    with statements(tasks.database.engine) as seen:
        mobync.apply(clock, sent, "bob")

    savepoints = 2 * SAVEPOINT if count > 1 else 0  # of the run, and of the log
    assert len(seen) == FIXED[tasks.database.kind] + 1 + savepoints, seen
    assert len(tasks.rows()) == {"create": 2 * count, "update": count, "delete": 0}[kind]


def test_rows_that_carry_different_fields_are_one_run_all_the_same(tasks):
    mobync = Mobync(tasks.store)
    creates = [diff("create", id="a"), diff("create", id="b", name="b", done=True)]
    creates += [diff("create", id="c", rank=3), diff("create", id="d", done=True)]
    with tasks.store.transaction("bob"):
        pass  # the first one makes the head
    with statements(tasks.database.engine) as seen:
        mobync.apply(0, creates, "bob")
    looks_for_deferred_checks = tasks.database.kind != "mariadb"  # once, for the store
    expected = FIXED[tasks.database.kind] + 1 + NOTE + 2 * SAVEPOINT
    assert len(seen) == expected + looks_for_deferred_checks, seen

    updates = [diff("update", id="a", name="A"), diff("update", id="b", rank=2, done=False)]
    updates += [diff("update", id="c", rank=None), diff("update", id="a", rank=1)]
    with statements(tasks.database.engine) as seen:
        mobync.apply(4, updates, "bob")
    assert len(seen) == FIXED[tasks.database.kind] + 1 + 2 * SAVEPOINT, seen
    assert tasks.rows() == {
        "a": {"id": "a", "name": "A", "rank": 1, "done": None},
        "b": {"id": "b", "name": "b", "rank": 2, "done": False},
        "c": {"id": "c", "name": None, "rank": None, "done": None},
        "d": {"id": "d", "name": None, "rank": None, "done": True},
    }


def test_each_run_of_a_kind_and_model_costs_one_statement_more(tasks):
    mobync = Mobync(tasks.store)
    mobync.apply(0, [diff("create", id="a"), diff("create", id="b")], "bob")
    sent = [
        diff("update", id="a", name="x"),
        diff("update", id="b", name="x"),
        diff("create", id="c"),
        diff("delete", id="a"),
        diff("create", id="d"),
    ]
    with statements(tasks.database.engine) as seen:
        mobync.apply(2, sent, "bob")
    # The update of "a" is not sent: its delete follows.
    assert len(seen) == FIXED[tasks.database.kind] + 4 + SAVEPOINT, seen


def test_an_apply_that_accepts_nothing_writes_nothing(tasks):
    mobync = Mobync(tasks.store)
    sent = diff("create", id="a")
    mobync.apply(0, [sent], "bob")
    for clock in (0, 1):
        with statements(tasks.database.engine) as seen:
            again = [diff("update", id="a")] if clock else [sent]
            assert mobync.apply(clock, again, "bob")["logical_clock"] == 1
        assert len(seen) == FIXED[tasks.database.kind] - 2 + (0 if clock else WINDOW), seen
        assert not [s for s in seen if s.startswith(("INSERT", "UPDATE", "DELETE"))]


def test_the_first_sync_of_an_owner_costs_a_few_statements_more(tasks):
    mobync = Mobync(tasks.store)
    mobync.apply(0, [diff("create", id="e")], "eve")  # a new connection is asked how it is set up
    with statements(tasks.database.engine) as seen:
        mobync.apply(0, [diff("create", id="a")], "bob")
    kind = tasks.database.kind
    assert len(seen) == FIXED[kind] + 1 + MORE_FOR_THE_FIRST[kind], seen


def test_the_highest_clock_is_that_of_the_log_inside_and_outside(tasks):
    store = tasks.store
    assert store.highest_logical_clock("bob") == -1
    with store.transaction("bob") as inside:
        assert inside.highest_logical_clock("bob") == -1
        inside.create_many("diffs", [log_row(0, id="a"), log_row(1, id="b")])
        assert inside.highest_logical_clock("bob") == 1
    assert store.highest_logical_clock("bob") == 1
    assert store.highest_logical_clock("eve") == -1


def test_a_log_from_before_the_heads_is_continued_where_it_ends(tasks):
    with tasks.store.transaction("bob") as inside:
        inside.create_many("diffs", [log_row(0, id="a"), log_row(1, id="b")])
    with tasks.database.engine.begin() as connection:
        connection.execute(text("DELETE FROM diffs_heads"))
    assert tasks.store.highest_logical_clock("bob") == 1
    reply = Mobync(tasks.store).apply(2, [diff("create", id="c")], "bob")
    assert reply["logical_clock"] == 3


def test_the_synchronizer_takes_what_the_protocol_asks_for(tasks):
    assert isinstance(tasks.store, Synchronizer)
    with tasks.store.transaction("bob") as inside:
        inside.create_many("diffs", [log_row(clock, id=str(clock)) for clock in range(5)])
        window = inside.read(
            "diffs",
            [
                ReadFilter(Diff.OWNER, FilterType.equal, "bob"),
                ReadFilter(Diff.LOGICAL_CLOCK, FilterType.majorOrEqual, 3),
            ],
        )
        assert sorted(row["logical_clock"] for row in window) == [3, 4]
