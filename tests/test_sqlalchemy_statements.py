"""mobync.sqlalchemy: the statements of a small sync are made once, and stay right."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import databases
import pytest
from databases import Database, open_database
from sqlalchemy import Column, Index, MetaData, Numeric, String, Table, event, text
from sqlalchemy.sql import coercions
from task_list import TaskList, diff

from mobync import Mobync
from mobync.sqlalchemy import DocumentSynchronizer, SQLAlchemySynchronizer
from mobync.sqlalchemy._statements import existing_ids

database = databases.database

PATIENCE_S = 30  # for threads that are sure to come


@pytest.fixture
def postgresql(tmp_path: Path) -> Iterator[Database]:
    with open_database("postgresql", tmp_path) as opened:
        yield opened


def apply_each(mobync: Mobync, clock: int) -> int:
    """A sync with one edit of each kind, and two with none; returns the clock afterwards."""
    mobync.apply(clock, [], "bob")
    mobync.apply(clock - 1, [], "bob")
    mobync.apply(clock, [diff("create", id=f"new {clock}", name="milk", done=True)], "bob")
    mobync.apply(clock + 1, [diff("update", id="a", name=f"name {clock + 1}", rank=clock)], "bob")
    return mobync.apply(clock + 2, [diff("delete", id=f"new {clock}")], "bob")["logical_clock"]


def test_a_second_sync_like_the_first_builds_no_statement(database, monkeypatch):
    tasks = TaskList(database)
    mobync = Mobync(tasks.store)
    clock = mobync.apply(0, [diff("create", id="a")], "bob")["logical_clock"]
    for _ in range(2):
        clock = apply_each(mobync, clock)
    made = []
    before = coercions.expect

    def note(*args: Any, **kwargs: Any) -> Any:
        made.append(args)
        return before(*args, **kwargs)

    monkeypatch.setattr(coercions, "expect", note)
    apply_each(mobync, clock)
    assert made == []
    assert tasks.rows()["a"]["name"] == f"name {clock + 1}"


def test_an_app_that_rewrites_statements_sees_all_of_them(database):
    def rewrite(connection: Any, statement: Any, *others: Any) -> tuple[Any, ...]:
        seen.append(type(statement).__name__)
        return statement, *others[:2]

    seen: list[str] = []
    tasks = TaskList(database)
    mobync = Mobync(tasks.store)
    mobync.apply(0, [diff("create", id="a")], "bob")
    event.listen(database.engine, "before_execute", rewrite, retval=True)
    mobync.apply(1, [diff("update", id="a", name="x")], "bob")
    assert [name for name in seen if name != "str"] == [
        "Select", "Update", "Insert", "Update",
    ]  # fmt: skip


def test_the_tables_of_a_translated_schema_are_used(postgresql):
    tasks = TaskList(postgresql)
    with postgresql.engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA IF NOT EXISTS mobync_tenant"))
    engine = postgresql.engine.execution_options(schema_translate_map={None: "mobync_tenant"})
    try:
        tasks.metadata.create_all(engine)
        mobync = Mobync(SQLAlchemySynchronizer(engine, {"tasks": tasks.tasks}))
        for clock, kind in enumerate(("create", "update", "update")):
            mobync.apply(clock, [diff(kind, id="a", name=str(clock))], "bob")
        with engine.connect() as connection:
            name = connection.scalar(text("SELECT name FROM mobync_tenant.tasks"))
    finally:
        with postgresql.engine.begin() as connection:
            connection.execute(text("DROP SCHEMA mobync_tenant CASCADE"))
    assert name == "2"
    assert tasks.rows() == {}


def test_a_sync_that_waited_sees_what_the_other_wrote(database):
    class Waiting(SQLAlchemySynchronizer):
        def validate_update(self, owner_id: str, **diff: Any) -> bool:
            holds.set()
            return go_on.wait(PATIENCE_S)

    holds, waits, go_on = threading.Event(), threading.Event(), threading.Event()
    tasks = TaskList(database)
    Mobync(tasks.store).apply(0, [diff("create", id="a", name="milk")], "bob")
    first = Mobync(Waiting(database.engine, {"tasks": tasks.tasks}))
    engine = database.new_engine()
    second = Mobync(tasks.another_store(engine))
    second.apply(0, [], "bob")

    def note(connection: Any, cursor: Any, statement: str, *others: Any) -> None:
        if "FOR UPDATE" in statement or statement == "BEGIN IMMEDIATE":
            waits.set()

    event.listen(engine, "before_cursor_execute", note)
    later = {**diff("update", id="a", name="later"), "utc_timestamp": 1_700_000_000_009}
    with ThreadPoolExecutor(2) as pool:
        wrote = pool.submit(first.apply, 1, [later], "bob")
        assert holds.wait(PATIENCE_S)
        waited = pool.submit(second.apply, 1, [diff("update", id="a", name="earlier")], "bob")
        assert waits.wait(PATIENCE_S)
        go_on.set()
        assert wrote.result(PATIENCE_S)["logical_clock"] == 2
        reply = waited.result(PATIENCE_S)
    assert [row["json_data"] for row in reply["diffs"]] == [later["json_data"]]
    assert tasks.rows()["a"]["name"] == "later"


# ---- plans of PostgreSQL ------------------------------------------------------------------------


def test_no_plan_is_kept_that_was_made_while_the_log_was_small(postgresql):
    tasks = TaskList(postgresql)
    engine = postgresql.new_engine(pool_size=1, max_overflow=0)
    event.listen(engine, "before_cursor_execute", lambda *_: None)  # else windows are sent as text
    mobync = Mobync(tasks.another_store(engine))
    mobync.apply(0, [diff("create", id="a")], "bob")
    for clock in range(1, 60, 2):
        mobync.apply(clock, [diff("update", id="a", name=str(clock))], "bob")
        mobync.apply(clock, [], "bob")
        mobync.apply(clock, [diff("update", id="a", rank=clock)], "bob")  # behind: reads a window
    with engine.connect() as connection:
        kept = connection.execute(
            text("SELECT generic_plans, custom_plans, statement FROM pg_prepared_statements")
        ).all()
    windows = [each for each in kept if "json_data" in each.statement]
    assert sum(each.custom_plans for each in windows) > 30
    assert [each for each in windows if each.generic_plans] == []


def test_documents_of_a_table_that_was_never_analyzed_are_looked_up_alone(postgresql):
    store = DocumentSynchronizer(postgresql.engine)
    store.metadata.create_all(postgresql.engine)
    with postgresql.engine.begin() as connection:
        connection.execute(text("ALTER TABLE documents SET (autovacuum_enabled = off)"))
    ids = [f"i{n}" for n in range(3000)]
    Mobync(store).apply(0, [diff("create", "items", id=id_, n=1) for id_ in ids], "bob")
    rows = text(
        "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables"
        " WHERE relid = CAST('documents' AS regclass)"
    )
    with store.transaction("bob") as inside:
        found = inside._find("items", [*ids, "none"])
        read = inside.connection.scalar(rows)
    assert len(found) == 3000
    assert read <= 3000


# ---- ids looked up ------------------------------------------------------------------------------


def work_of(connection: Any, work: Callable[[], object]) -> int:
    """What a database does for some work: rows that it reads, or hundreds of SQLite's steps."""
    if connection.dialect.name == "sqlite":
        steps = []
        driver = connection.connection.driver_connection
        driver.set_progress_handler(lambda: steps.append(1) and None, 100)
        work()
        driver.set_progress_handler(None, 0)
        return len(steps)
    before = connection.scalar(ROWS_READ)
    work()
    return int(connection.scalar(ROWS_READ) - before)


ROWS_READ = text(
    "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables"
    " WHERE relid = CAST('jars' AS regclass)"
)


@pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)  # as never analyzed
@pytest.mark.parametrize("key", [("id",), ("owner", "id")], ids=["id", "owner and id"])
def test_ids_are_looked_up_without_reading_all_of_an_owner(database, key):
    metadata = MetaData()
    jars = Table(
        "jars",
        metadata,
        *(Column(name, String(40), primary_key=True) for name in key),
        *(() if "owner" in key else (Column("owner", String(40), nullable=False),)),
        Column("price", Numeric(10, 2)),
        Index("of_owner", "owner"),
    )
    store = SQLAlchemySynchronizer(database.engine, {"jars": jars})
    metadata.create_all(database.engine)
    if database.kind == "postgresql":
        with database.engine.begin() as connection:
            connection.execute(text("ALTER TABLE jars SET (autovacuum_enabled = off)"))
    rows = [{"id": f"j{n}", "owner": "bob", "price": n} for n in range(3000)]
    with database.engine.begin() as connection:
        connection.execute(jars.insert(), rows)
    asked = ["none", *(f"j{n * 100}" for n in range(30)), "j100"]
    with store.transaction("bob") as inside:
        model = store._models["jars"]
        found: list[Any] = []
        taken: list[Any] = []
        of_fields = work_of(
            inside.connection, lambda: found.extend(inside._read_fields("jars", asked, ["price"]))
        )
        of_ids = work_of(
            inside.connection,
            lambda: taken.extend(existing_ids(inside.connection, model, "bob", asked)),
        )
    assert {row["id"]: row["price"] for row in found} == {f"j{n * 100}": n * 100 for n in range(30)}
    assert sorted(taken) == sorted(set(asked) - {"none"})
    assert max(of_fields, of_ids) <= 150, (of_fields, of_ids)
