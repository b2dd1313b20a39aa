"""mobync.sqlalchemy: named devices in a database."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import databases
import pytest
import sqlalchemy as sa
import sqlalchemy.orm
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from databases import Database
from kept_devices import check_devices_are_kept
from sqlalchemy import BigInteger, Column, Integer, MetaData, String, Table, text
from task_list import TaskList, diff, statements, task_table
from test_named_devices import STORIES, Apply, tell

from mobync import InvalidDiffError, Mobync, MobyncError, UnknownDeviceError
from mobync.sqlalchemy import (
    DocumentSynchronizer,
    SQLAlchemySynchronizer,
    create_tables,
    create_triggers,
)

database = databases.database

PHONE: dict[str, Any] = {"device": "phone", "request": 1}


# ---- the stories --------------------------------------------------------------------------------


class Server(Apply):
    """A server on a database, of which a copy is what its tables hold."""

    def __init__(self, store: SQLAlchemySynchronizer, engine: sa.Engine, metadata: MetaData):
        super().__init__(store)
        self._engine, self._metadata = engine, metadata

    def __deepcopy__(self, memo: Any) -> Any:
        """A backup; a copy of a backup is the server, with what the backup held."""
        with self._engine.connect() as connection:
            rows = {
                table: connection.execute(table.select()).mappings().all()
                for table in self._metadata.sorted_tables
            }
        return Backup(self, rows)

    def empty(self) -> None:
        with self._engine.begin() as connection:
            for table in self._metadata.sorted_tables:
                connection.execute(table.delete())


class Backup:
    def __init__(self, server: Server, rows: Any) -> None:
        self._server, self._rows = server, rows

    def __deepcopy__(self, memo: Any) -> Server:
        self._server.empty()
        with self._server._engine.begin() as connection:
            for table, rows in self._rows.items():
                if rows:
                    connection.execute(table.insert(), [dict(row) for row in rows])
        return self._server


def on_tables(engine: sa.Engine) -> Server:
    metadata = MetaData()
    fields = [Column(name, Integer) for name in ("a", "b", "c", "fd0", "fd1", "fd2")]
    key = Column("id", String(40), primary_key=True), Column("owner", String(64), nullable=False)
    table = Table("m", metadata, *key, *fields)
    return made(SQLAlchemySynchronizer(engine, {"m": table}), engine, metadata)


def on_documents(engine: sa.Engine) -> Server:
    store = DocumentSynchronizer(engine)
    return made(store, engine, store.metadata)


def made(store: SQLAlchemySynchronizer, engine: sa.Engine, metadata: MetaData) -> Server:
    create_tables(engine, metadata)
    return Server(store, engine, metadata)


@pytest.mark.parametrize("part", range(4))
def test_a_story_goes_as_it_is_told(database, part):
    server = on_documents(database.engine) if part == 3 else on_tables(database.engine)
    for story in STORIES[part::4]:
        server.empty()
        tell(story, server)


# ---- in the sync's own transaction --------------------------------------------------------------


class Choosy(SQLAlchemySynchronizer):
    """Refuses secrets, inside of the transaction."""

    def validate_create(self, owner_id: str, **each: Any) -> bool:
        return "secret" not in each["json_data"]


def test_what_fails_leaves_the_device_as_it_was(database):
    tasks = TaskList(database, Choosy)
    mobync = Mobync(tasks.store)
    first = mobync.apply(0, [diff("create", id="a")], "bob", **PHONE)
    kept = tasks.store.read_devices("bob", None)
    assert set(kept) == {"", "phone"}
    second = {**PHONE, "request": 2, "mark": first["mark"]}
    for fields in ({"name": "secret"}, {"rank": "no number"}, {"name": "x" * 101}):
        with pytest.raises(MobyncError):
            mobync.apply(1, [diff("create", id="b", **fields)], "bob", **second)
        assert tasks.store.read_devices("bob", None) == kept
    assert mobync.apply(1, [diff("create", id="b")], "bob", **second)["logical_clock"] == 2
    assert tasks.store.read_devices("bob", None) != kept


@pytest.mark.parametrize("source", ["session", "engine", "engine with capture"])
def test_devices_are_known_however_the_store_gets_at_its_database(database, source):
    tasks = TaskList(database)
    engine = database.new_engine()
    given = sa.orm.Session(engine) if source == "session" else engine
    capture = source == "engine with capture"
    store = SQLAlchemySynchronizer(given, {"tasks": tasks.tasks}, capture=capture)
    if capture:
        create_tables(engine, tasks.metadata)
        create_triggers(engine, store)
    mobync = Mobync(store)
    sent = [diff("create", id="a")]
    mobync.apply(0, sent, "bob", **PHONE)
    again = mobync.apply(0, sent, "bob", **PHONE)
    assert (again["logical_clock"], again["diffs"]) == (1, [])
    for number in (2, 3):
        said = {**PHONE, "request": number, "mark": again["mark"]}
        again = mobync.apply(number - 1, [diff("update", id="a", rank=number)], "bob", **said)
    with pytest.raises(UnknownDeviceError):
        mobync.apply(0, sent, "bob", **PHONE)
    assert mobync.apply(3, [], "bob", device="phone", request=4, mark=again["mark"])["mark"]
    if source == "session":
        given.close()


def test_copies_of_one_request_that_come_at_once_are_done_once(database):
    tasks = TaskList(database)
    Mobync(tasks.store).push("bob", [("create", "tasks", {"id": "t"})])
    sent = [diff("create", id="a")]
    stores = [tasks.another_store() for _ in range(6)]
    replies: list[Any] = []
    barrier = threading.Barrier(len(stores))

    def send(store: SQLAlchemySynchronizer) -> None:
        barrier.wait()
        replies.append(Mobync(store).apply(0, [dict(each) for each in sent], "bob", **PHONE))

    threads = [threading.Thread(target=send, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [reply["logical_clock"] for reply in replies] == [2] * len(stores)
    assert len(tasks.log()) == 2
    assert len({reply["mark"] for reply in replies}) == len(stores)
    kept = json.loads(tasks.store.read_devices("bob", ["phone"])["phone"])
    assert {mark for mark, _ in kept["marks"]} == {reply["mark"] for reply in replies}


def test_a_poll_waits_for_nobody_and_writes_nothing(database):
    tasks = TaskList(database)
    mobync = Mobync(tasks.another_store(lock_timeout_s=1))
    reply = mobync.apply(0, [diff("create", id="a")], "bob", **PHONE)
    said = {**PHONE, "request": 2, "mark": reply["mark"]}
    mobync.apply(1, [], "bob", **said)  # notes from where on the device needs the log
    kept = tasks.store.read_devices("bob", None)
    with tasks.store.transaction("bob"):
        for _ in range(3):
            polled = mobync.apply(1, [], "bob", **said)
            assert (polled["logical_clock"], polled["mark"], polled["diffs"]) == (
                1,
                reply["mark"],
                [],
            )
    assert tasks.store.read_devices("bob", None) == kept
    with pytest.raises(UnknownDeviceError):
        mobync.apply(1, [], "bob", **{**said, "request": 3})
    with pytest.raises(UnknownDeviceError):
        mobync.apply(1, [], "bob", **{**said, "mark": "another"})


# ---- the methods --------------------------------------------------------------------------------


def test_devices_of_an_owner_are_kept_by_their_names(database):
    check_devices_are_kept(TaskList(database).store)


def test_a_device_whose_name_the_database_cannot_keep_apart_is_refused(database):
    mobync = Mobync(TaskList(database).store)
    said = {**PHONE, "device": "phone "}
    if database.kind == "mariadb":
        with pytest.raises(InvalidDiffError, match="device ends in a space"):
            mobync.apply(0, [diff("create", id="a")], "bob", **said)
        with pytest.raises(InvalidDiffError, match="device ends in a space"):
            mobync.apply(0, [], "bob", **said)
    else:
        reply = mobync.apply(0, [diff("create", id="a")], "bob", **said)
        with pytest.raises(UnknownDeviceError):
            mobync.apply(1, [], "bob", device="phone", request=2, mark=reply["mark"])


# ---- tables of 1.0 ------------------------------------------------------------------------------

TAKEN_AWAY = [
    "DROP TABLE diffs_devices",
    "ALTER TABLE diffs_heads DROP COLUMN state",
    "ALTER TABLE diffs DROP COLUMN field_times",
    "DROP TABLE diffs_parts",
]
DOCUMENT = Path(__file__).parents[1] / "docs" / "databases.md"
HEADINGS = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mariadb": "MariaDB"}


def old_tables(database: Database) -> TaskList:
    tasks = TaskList(database)
    take_away(database, TAKEN_AWAY)
    return tasks


def take_away(database: Database, statements: list[str]) -> None:
    with database.engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


@pytest.mark.parametrize("which", [[0], [1], [0, 1, 2]])
def test_on_tables_of_1_0_protocol_1_is_spoken_with_a_device_that_names_itself(database, which):
    tasks = TaskList(database)
    take_away(database, [TAKEN_AWAY[n] for n in which])
    mobync = Mobync(tasks.store)
    sent = [diff("create", id="a")]
    for _ in range(2):
        reply = mobync.apply(0, sent, "bob", device="phone", request=7, mark="x")
        assert (reply["logical_clock"], reply["diffs"]) == (1, [])
        assert "mark" not in reply
    with statements(database.engine) as seen:
        reply = mobync.apply(1, [], "bob", device="phone", request=7, mark="x")
        mobync.apply(1, [diff("update", id="a", rank=3)], "bob", device="phone", request=7)
        mobync.apply(2, [diff("update", id="a", rank=3)], "bob")
    assert (reply["logical_clock"], "mark" in reply) == (1, False)
    assert not [s for s in seen if "devices" in s or "schema" in s or "pg_" in s or "PRAGMA" in s]
    assert tasks.store.read_devices("bob", ["phone"]) is None
    assert tasks.store.keeps_field_times() == (2 not in which)
    with tasks.store.transaction("bob") as inside, pytest.raises(RuntimeError, match="no table"):
        inside.write_devices("bob", {"phone": "{}"})


def test_create_tables_brings_tables_of_1_0_up_to_date(database):
    tasks = old_tables(database)
    Mobync(tasks.store).apply(0, [diff("create", id="a")], "bob")
    threads = [
        threading.Thread(target=create_tables, args=(database.new_engine(), tasks.metadata))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    create_tables(database.engine, tasks.metadata)
    check_up_to_date(database, tasks)


def documented_migration(kind: str) -> list[str]:
    section = DOCUMENT.read_text().split("### Tables of 1.0\n")[1].split("\n### ")[0]
    code = section.split(f"{HEADINGS[kind]}")[1].split("```sql\n")[1].split("```")[0]
    return [each.strip() for each in code.split(";") if each.strip()]


def test_the_documented_migration_brings_tables_of_1_0_up_to_date(database):
    tasks = old_tables(database)
    Mobync(tasks.store).apply(0, [diff("create", id="a")], "bob")
    take_away(database, documented_migration(database.kind))
    check_up_to_date(database, tasks)


def check_up_to_date(database: Database, tasks: TaskList) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, tasks.metadata) == []
    store = tasks.another_store()
    assert Mobync(store).apply(1, [diff("create", id="b")], "bob", **PHONE)["reset"]
    assert store.keeps_field_times()
    with store.transaction("bob") as inside:
        first, second = inside.read("diffs")
        assert "field_times" not in {**first, **second}
        inside.update("diffs", json.dumps({"id": first["id"], "field_times": '{"a": 7}'}))
        extra = {**second, "id": "c", "logical_clock": 2, "field_times": '{"b": 8}'}
        inside.create("diffs", json.dumps(extra))
        times = [row.get("field_times") for row in inside.read("diffs")]
        assert (len(times), set(times)) == (3, {None, '{"a": 7}', '{"b": 8}'})


def test_a_log_that_the_app_declared_without_the_later_columns_is_used_as_it_is(database):
    metadata = MetaData()
    texts = [Column(name, String(255)) for name in ("type", "model", "json_data")]
    numbers = [Column(name, BigInteger) for name in ("logical_clock", "utc_timestamp")]
    key = [Column(name, String(40), primary_key=True) for name in ("id", "owner")]
    log = Table("diffs", metadata, *key, *numbers, *texts, mariadb_charset="utf8mb4")
    store = SQLAlchemySynchronizer(database.engine, {"tasks": task_table(metadata)}, diffs=log)
    create_tables(database.engine, metadata)
    mobync = Mobync(store)
    assert "mark" in mobync.apply(0, [diff("create", id="a")], "bob", **PHONE)
    assert not store.keeps_field_times()
