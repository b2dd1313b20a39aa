"""mobync.sqlalchemy: a small sync that talks to the driver does what it does through SQLAlchemy."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from operator import itemgetter
from pathlib import Path
from types import ModuleType
from typing import Any

import databases
import psycopg
import pytest
from databases import Database, open_database
from sqlalchemy import (
    CheckConstraint,
    Column,
    Engine,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    text,
)
from sqlalchemy.engine import URL
from task_list import TaskList, diff

from mobync import BusyError, FilterType, InvalidDiffError, Mobync, ReadFilter, UnavailableError
from mobync.sqlalchemy import (
    DocumentSynchronizer,
    SQLAlchemySynchronizer,
    _talks,
    _transactions,
    create_tables,
    diffs_table,
    documents_table,
)
from mobync.sqlalchemy._direct import Direct

database = databases.database

PATIENCE_S = 60  # for processes that are sure to come

NASTY = [
    "it's", '"quoted"', "back\\slash", "\\'; DROP TABLE tasks; --", "100 % of %s and %(name)s",
    "one; two", "END; COMMIT", "`", "$1 :name ?", "\n\r\t\x1a", "ü 猫 😀", "",
]  # fmt: skip


@pytest.fixture
def talks(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each attempt so far talked to the driver, as far as it was its to choose."""
    noted: list[bool] = []
    talk_to = _transactions.talk_to

    def note(*arguments: Any) -> Any:
        talk = talk_to(*arguments)
        noted.append(talk is not None)
        return talk

    monkeypatch.setattr(_transactions, "talk_to", note)
    return noted


def listen(engine: Engine) -> None:
    """Have an engine's statements go through SQLAlchemy."""
    event.listen(engine, "before_cursor_execute", lambda *arguments: None)


# ---- the same as through SQLAlchemy -------------------------------------------------------------


def days_work(mobync: Mobync, owner: str) -> list[dict[str, Any]]:
    """Small syncs of every kind; returns the replies."""
    syncs = [
        [diff("create", id=f"{owner} a", name="milk", done=True)],
        [diff("update", id=f"{owner} a", name="rye", rank=7)],
        [diff("create", id=f"{owner} b"), diff("create", id=f"{owner} c", rank=1)],
        [diff("update", id=f"{owner} b", rank=2), diff("update", id=f"{owner} a", done=False)],
        [diff("update", id=f"{owner} nobody", rank=2), diff("delete", id=f"{owner} nobody")],
        [diff("delete", id=f"{owner} c"), diff("update", id=f"{owner} b", name=None)],
        [],
    ]
    replies = []
    clock = 0
    for number, diffs in enumerate(syncs):
        behind = 0 if number == 3 else clock
        replies.append(mobync.apply(behind, diffs, owner))
        clock = replies[-1]["logical_clock"]
    return replies


def without_names(replies: Any, owner: str) -> Any:
    """What differs from owner to owner or from run to run, taken out."""
    if isinstance(replies, dict):
        return {k: without_names(v, owner) for k, v in replies.items() if k != "id" or v is None}
    if isinstance(replies, list):
        return [without_names(each, owner) for each in replies]
    return replies.replace(owner, "") if isinstance(replies, str) else replies


def test_small_syncs_leave_and_answer_what_they_would_through_sqlalchemy(database, talks):
    tasks = TaskList(database)
    listening = database.new_engine()
    listen(listening)
    stores = {"drew": tasks.store, "sal": tasks.another_store(listening)}
    for store in stores.values():
        Mobync(store).apply(0, [diff("create", id="x")], "first")  # checks the connection
        break
    Mobync(stores["sal"]).apply(1, [], "first")
    talks.clear()
    replies, rows, logs = [], [], []
    for owner, store in stores.items():
        replies.append(without_names(days_work(Mobync(store), owner), owner))
        rows.append(without_names(list(tasks.rows(owner).values()), owner))
        logs.append(without_names(tasks.log(owner), owner))
    assert talks[:6] == [True] * 6
    assert True not in talks[6:]
    assert replies[0] == replies[1]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 2
    assert logs[0] == logs[1]
    assert len(logs[0]) == replies[0][-1]["logical_clock"]


def test_documents_are_written_without_sqlalchemy_and_are_the_same(database, talks, monkeypatch):
    settled: set[Direct] = set()
    settle = Direct.settle
    monkeypatch.setattr(Direct, "settle", lambda self: (settled.add(self), settle(self)))
    listening = database.new_engine()
    listen(listening)
    stores = {"drew": DocumentSynchronizer(database.engine), "sal": DocumentSynchronizer(listening)}
    create_tables(database.engine, stores["drew"].metadata)
    for store in stores.values():
        Mobync(store).apply(0, [diff("create", id="x")], "first")  # checks the connection
        Mobync(store).apply(1, [], "first")
    talks.clear()
    settled.clear()
    replies, documents, logs = [], [], []
    for owner, store in stores.items():
        replies.append(without_names(days_work(Mobync(store), owner), owner))
        documents.append(without_names(list(map(list, store.documents(owner))), owner))
        of_owner = ReadFilter("owner", FilterType.equal, owner)
        log = sorted(store.read("diffs", [of_owner]), key=itemgetter("logical_clock"))
        logs.append(without_names(log, owner))
    assert talks == [True] * 6
    assert len(settled) == 1  # the first sync, which makes the owner's head
    assert replies[0] == replies[1]
    assert documents[0] == documents[1]
    a, b = (json.loads(document) for _, _, document in documents[0])
    assert a == {"id": " a", "name": "rye", "done": True, "rank": 7}
    assert b == {"id": " b", "name": None}
    assert logs[0] == logs[1]


def test_an_update_of_a_document_reads_and_keeps_every_text(database, talks):
    store = DocumentSynchronizer(database.engine)
    create_tables(database.engine, store.metadata)
    mobync = Mobync(store)
    clock = mobync.apply(0, [diff("create", id=name or "-") for name in NASTY], "it's %s")[
        "logical_clock"
    ]
    for name in NASTY:
        edits = [diff("update", id=name or "-", name=name), diff("update", id="%", name=name)]
        clock = mobync.apply(clock, edits, "it's %s")["logical_clock"]
    rows = [json.loads(each.text) for each in store.documents("it's %s")]
    assert {row["id"]: row["name"] for row in rows} == {name or "-": name for name in NASTY}
    assert talks == [True] * len(NASTY)


def test_an_update_of_a_document_sees_what_its_transaction_wrote(database):
    store = DocumentSynchronizer(database.engine)
    create_tables(database.engine, store.metadata)
    Mobync(store).apply(0, [diff("create", id="a")], "bob")  # checks the connection
    with store._attempt("bob", carefully=False) as inside:
        inside.create_many("tasks", ['{"id": "b", "name": "milk"}'])
        inside.update_many("tasks", ['{"id": "b", "rank": 7}'])
        assert inside._open.direct is not None
        assert not inside._open.direct.is_settled
    documents = [json.loads(each.text) for each in store.documents("bob")]
    assert documents == [{"id": "a"}, {"id": "b", "name": "milk", "rank": 7}]


def test_a_document_that_the_database_refuses_is_told_of_its_diff(database, talks):
    metadata = MetaData()
    documents_table(metadata).append_constraint(CheckConstraint("length(document) < 200"))
    store = DocumentSynchronizer(database.engine, metadata)
    create_tables(database.engine, metadata)
    mobync = Mobync(store)
    clock = mobync.apply(0, [diff("create", id="a", name="milk")], "bob")["logical_clock"]
    too_long = diff("update", id="a", notes="x" * 300)
    with pytest.raises(InvalidDiffError) as refused:
        mobync.apply(clock, [diff("create", id="b"), too_long], "bob")
    assert refused.value.index == 1
    assert refused.value.diff_id == too_long["id"]
    assert talks[-1:] == [True]
    assert [json.loads(each.text)["id"] for each in store.documents("bob")] == ["a"]
    assert mobync.apply(clock, [], "bob")["logical_clock"] == clock


def settings_of(database: Database) -> list[dict[str, Any]]:
    """How engines may be set up that read literals in another way."""
    return {
        "sqlite": [{}],
        "postgresql": [
            {},
            {"connect_args": {"options": f"{database.url.query.get('options')} "
                                         "-cstandard_conforming_strings=off"}},
        ],
        "mariadb": [
            {},
            {"connect_args": {"init_command": "SET sql_mode = CONCAT(@@sql_mode, "
                                              "',NO_BACKSLASH_ESCAPES,ANSI_QUOTES')"}},
        ],
    }[database.kind]  # fmt: skip


def test_texts_that_look_like_sql_arrive_to_the_letter(database, talks):
    tasks = TaskList(database)
    for options in settings_of(database):
        mobync = Mobync(tasks.another_store(database.new_engine(**options)))
        owner = f"it's {len(options)} \\ % %s"
        clock = mobync.apply(0, [diff("create", id=f"a{len(options)}")], owner)["logical_clock"]
        talks.clear()
        for name in NASTY:
            edit = diff("update", id=f"a{len(options)}", name=name)
            clock = mobync.apply(clock, [edit], owner)["logical_clock"]
            (row,) = tasks.rows(owner).values()
            assert row["name"] == name
            assert json.loads(tasks.log(owner)[-1]["json_data"])["name"] == name
        assert talks.count(True) == len(NASTY)


# ---- what the database refuses ------------------------------------------------------------------


class Asked(SQLAlchemySynchronizer):
    """Counts what its rule is asked."""

    count = 0

    def validate_create(self, owner_id: str, **diff: Any) -> bool:
        type(self).count += 1
        return True


def people_of(database: Database, store: type[SQLAlchemySynchronizer]) -> SQLAlchemySynchronizer:
    metadata = MetaData()
    people = Table(
        "people",
        metadata,
        Column("id", String(40), primary_key=True),
        Column("owner", String(40), nullable=False),
        Column("email", String(100), unique=True),
    )
    diffs_table(metadata)
    metadata.create_all(database.engine)
    made = store(database.engine, {"people": people})
    Mobync(made).apply(0, [diff("create", "people", id="a", email="x@y")], "bob")
    return made


def test_what_the_database_refuses_is_told_of_its_diff_by_a_second_attempt(database, talks):
    store = people_of(database, Asked)
    talks.clear()
    Asked.count = 0
    sent = [diff("create", "people", id=id_, email=f"{id_}@y") for id_ in "bec"]
    sent.insert(2, diff("create", "people", id="d", email="x@y"))
    with pytest.raises(InvalidDiffError, match="another row has the same 'email'") as refusal:
        Mobync(store).apply(1, sent, "bob")
    assert (refusal.value.index, refusal.value.diff_id) == (2, sent[2]["id"])
    assert talks == [True]
    assert Asked.count == 2 * len(sent)
    with store.transaction("bob") as inside:
        assert [row["id"] for row in inside.read("people")] == ["a"]

    reply = Mobync(store, on_refusal="skip").apply(1, sent, "bob")
    assert [refused["id"] for refused in reply["refused"]] == [sent[2]["id"]]
    with store.transaction("bob") as inside:
        assert sorted(row["id"] for row in inside.read("people")) == ["a", "b", "c", "e"]
    assert Mobync(store).apply(4, [], "bob")["diffs"] == []


# ---- what else happens in the transaction -------------------------------------------------------

# MariaDB keeps the answer from innodb_trx until nobody has asked for 0.1 s, so a transaction may
# see itself only later.
SHOWN = {
    "sqlite": "SELECT 1",
    "postgresql": "SELECT current_setting('transaction_isolation')"
    " || current_setting('lock_timeout')",
    "mariadb": "SELECT CONCAT(trx_isolation_level, @@innodb_lock_wait_timeout) FROM"
    " information_schema.innodb_trx WHERE trx_mysql_thread_id = connection_id()",
}
SHOWN_TRIES = 100
EXPECTED = {"sqlite": 1, "postgresql": "read committed3s", "mariadb": "READ COMMITTED3"}


class Counting(SQLAlchemySynchronizer):
    """Has its rules write, too, and fail where they are told to."""

    shown: Any = None
    fails: type[BaseException] | None = None

    def validate_update(self, owner_id: str, **diff: Any) -> bool:
        self.connection.execute(text("UPDATE counts SET n = n + 1"))
        shown = text(SHOWN[self.connection.dialect.name])
        for _ in range(SHOWN_TRIES):
            type(self).shown = self.connection.scalar(shown)
            if self.shown is not None:
                break
            time.sleep(0.2)
        if self.fails is not None:
            raise self.fails("no")
        return True


@pytest.mark.parametrize("error", [None, OSError, KeyboardInterrupt])
def test_what_a_rule_writes_is_kept_with_the_sync_or_not_at_all(
    database, talks, monkeypatch, error
):
    engine = database.new_engine(pool_size=1, max_overflow=0)
    tasks = TaskList(database, Counting)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE counts (n INTEGER)"))
        connection.execute(text("INSERT INTO counts VALUES (0)"))
    mobync = Mobync(tasks.another_store(engine, lock_timeout_s=3))
    mobync.apply(0, [diff("create", id="a", name="milk")], "bob")
    monkeypatch.setattr(Counting, "fails", error)
    with nullcontext() if error is None else pytest.raises(error):
        mobync.apply(1, [diff("update", id="a", name="rye")], "bob")
    assert talks[-1:] == [True]
    assert Counting.shown == EXPECTED[database.kind]
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT n FROM counts")) == (error is None)
    assert tasks.rows()["a"]["name"] == ("rye" if error is None else "milk")


def test_a_connection_goes_back_to_the_app_as_it_was(database, talks):
    engine = database.new_engine(pool_size=1, max_overflow=0)
    mobync = Mobync(TaskList(database).another_store(engine))
    mobync.apply(0, [diff("create", id="a", name="milk")], "bob")
    mobync.apply(1, [diff("update", id="a", name="rye")], "bob")
    assert talks == [True]
    with engine.connect() as connection:
        connection.execute(text("UPDATE tasks SET name = 'lost'"))  # rolled back when it is left
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT name FROM tasks")) == "rye"
        level = connection.get_isolation_level()
    assert level == engine.dialect.default_isolation_level


def test_an_app_that_logs_its_statements_sees_those_of_a_sync(database, talks, caplog):
    mobync = Mobync(TaskList(database).store)
    mobync.apply(0, [diff("create", id="a")], "bob")
    talks.clear()
    with caplog.at_level(logging.INFO, "sqlalchemy.engine"):
        mobync.apply(1, [diff("update", id="a", name="rye")], "bob")
    assert True not in talks
    assert any("UPDATE tasks" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("how", ["event", "log"])
def test_an_app_that_listens_sees_the_statement_of_a_poll(database, caplog, how):
    engine = database.new_engine()
    mobync = Mobync(TaskList(database).another_store(engine))
    mobync.apply(0, [diff("create", id="a")], "bob")
    mobync.apply(1, [], "bob")
    heard: list[str] = []
    with caplog.at_level(logging.INFO if how == "log" else logging.WARNING, "sqlalchemy.engine"):
        if how == "event":
            event.listen(
                engine, "before_cursor_execute", lambda c, cursor, sql, *others: heard.append(sql)
            )
        assert mobync.apply(1, [], "bob")["diffs"] == []
    heard += [record.getMessage() for record in caplog.records]
    assert sum("FROM diffs_heads" in each for each in heard) == 1


def test_a_subclass_with_a_transaction_of_its_own_has_it_around_each_sync(database, talks):
    class Around(SQLAlchemySynchronizer):
        entered = 0

        @contextmanager
        def transaction(self, owner_id: str) -> Iterator[Any]:
            with super().transaction(owner_id) as inside:
                yield inside
                inside.connection.execute(text("UPDATE tasks SET rank = 5"))

    tasks = TaskList(database, Around)
    Mobync(tasks.store).apply(0, [diff("create", id="a")], "bob")
    Mobync(tasks.store).apply(1, [diff("update", id="a", name="rye")], "bob")
    assert talks == []
    assert tasks.rows()["a"]["rank"] == 5


# ---- psycopg's connections ----------------------------------------------------------------------


class OwnConnection(psycopg.Connection[Any]):
    """May do more than psycopg's own, as one for tracing does."""


class OwnCursor(psycopg.Cursor[Any]):
    """Sees each statement, as one for tracing does."""


def connect_by(kind: type[psycopg.Connection[Any]], url: URL) -> Any:
    """What gives an engine connections of a class."""
    _, keywords = create_engine(url).dialect.create_connect_args(url)
    return lambda: kind.connect(**keywords)


def with_transaction(connection: Any) -> None:
    connection.execute("SELECT 1")


@pytest.mark.parametrize(
    ("options", "at_checkout"),
    [
        ({"creator": OwnConnection}, None),
        ({"connect_args": {"cursor_factory": OwnCursor}}, None),
        ({}, with_transaction),
    ],
    ids=["connections of its own", "cursors of its own", "transaction"],
)
def test_a_connection_of_psycopg_that_is_not_as_psycopg_makes_it_is_sqlalchemys(
    tmp_path, talks, options, at_checkout
):
    with open_database("postgresql", tmp_path) as database:
        tasks = TaskList(database)
        if "creator" in options:
            options = {"creator": connect_by(options["creator"], database.url)}
        engine = database.new_engine(pool_size=1, max_overflow=0, **options)
        seen: list[Any] = []
        event.listen(engine, "checkout", lambda driver, *others: seen.append(driver))
        if at_checkout is not None:
            event.listen(engine, "checkout", lambda driver, *others: at_checkout(driver))
        mobync = Mobync(tasks.another_store(engine))
        mobync.apply(0, [diff("create", id="a", name="milk")], "bob")
        mobync.apply(1, [diff("update", id="a", name="rye")], "bob")
        talks.clear()
        assert mobync.apply(2, [diff("update", id="a", name="it's")], "bob")["logical_clock"] == 3
        assert mobync.apply(3, [], "bob")["diffs"] == []
        assert talks == [False]
        assert seen[-1].info.transaction_status is psycopg.pq.TransactionStatus.IDLE
        assert tasks.rows()["a"]["name"] == "it's"


@pytest.mark.parametrize(
    ("module", "has"),
    [
        ("psycopg.generators", {}),
        ("psycopg.adapt", {"AdaptersMap": psycopg.adapt.AdaptersMap}),
        ("psycopg.adapt", {**vars(psycopg.adapt), "Transformer": type("Transformer", (), {})}),
    ],
    ids=["execute", "Transformer", "load_rows"],
)
def test_a_psycopg_without_a_name_that_mobync_uses_is_called_by_sqlalchemy(
    tmp_path, talks, monkeypatch, module, has
):
    with open_database("postgresql", tmp_path) as database:
        tasks = TaskList(database)
        mobync = Mobync(tasks.store)
        mobync.apply(0, [diff("create", id="a", name="milk")], "bob")
        another = ModuleType(module)
        another.__dict__.update(has)
        monkeypatch.setitem(sys.modules, module, another)
        _talks._psycopg.cache_clear()
        try:
            mobync.apply(1, [diff("update", id="a", name="rye")], "bob")
            assert mobync.apply(2, [], "bob")["diffs"] == []
        finally:
            _talks._psycopg.cache_clear()
        assert talks == [False]
        assert tasks.rows()["a"]["name"] == "rye"


def test_a_connection_that_was_closed_meanwhile_is_an_outage_and_replaced(tmp_path, talks):
    with open_database("postgresql", tmp_path) as database:
        engine = database.new_engine(pool_size=1, max_overflow=0)
        seen: list[Any] = []
        event.listen(engine, "checkout", lambda driver, *others: seen.append(driver))
        mobync = Mobync(TaskList(database).another_store(engine))
        mobync.apply(0, [diff("create", id="a", name="milk")], "bob")
        for clock, sent in [(1, []), (1, [diff("update", id="a", name="rye")])]:
            seen[-1].close()
            with pytest.raises(UnavailableError):
                mobync.apply(clock, sent, "bob")
            assert mobync.apply(clock, sent, "bob")["logical_clock"] == clock + len(sent)


# ---- locks --------------------------------------------------------------------------------------


def test_on_sqlite_a_lock_is_waited_for_longer_than_the_apps_connection_would(tmp_path):
    with open_database("sqlite", tmp_path) as sqlite:
        tasks = TaskList(sqlite)
        engine = sqlite.new_engine(pool_size=1, max_overflow=0, connect_args={"timeout": 0.05})
        patient = Mobync(tasks.another_store(engine, lock_timeout_s=PATIENCE_S))
        patient.apply(0, [diff("create", id="a")], "bob")
        with engine.connect() as connection:
            own_ms = connection.scalar(text("PRAGMA busy_timeout"))
        with waiter(sqlite, "hold", "held") as (said, go_on):
            assert said() == "ready"
            go_on()
            assert said() == "holds"
            with pytest.raises(BusyError):
                hasty = tasks.another_store(engine, lock_timeout_s=0.1)
                Mobync(hasty).apply(1, [diff("update", id="a", name="hasty")], "bob")
            go_on()
            patient.apply(1, [diff("update", id="a", name="patient")], "bob")
            json.loads(said())
        with engine.connect() as connection:
            assert connection.scalar(text("PRAGMA busy_timeout")) == own_ms == 50


@contextmanager
def waiter(
    database: Database, how: str, name: str, timestamp: int = 1_700_000_000_000
) -> Iterator[tuple[Callable[[], str], Callable[[], None]]]:
    """A sync in another process: what reads the next line that it says, and what lets it go on."""
    here = Path(__file__).parent
    url = database.url.render_as_string(hide_password=False)
    command = [sys.executable, str(here / "processes/waiter.py"), url, how, name, str(timestamp)]
    paths = [str(here), os.environ.get("PYTHONPATH", "")]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def go_on() -> None:
        process.stdin.write("\n")
        process.stdin.flush()

    try:
        yield lambda: process.stdout.readline().strip(), go_on
    finally:
        process.stdin.close()
        process.wait(PATIENCE_S)
        process.stdout.close()


WAITING = {
    "postgresql": "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid IN (SELECT pid FROM"
    " pg_stat_activity WHERE query LIKE 'BEGIN%diffs_heads%FOR UPDATE%')",
    "mariadb": "SELECT count(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'"
    " AND trx_query LIKE 'SET STATEMENT%diffs_heads%FOR UPDATE%'",
}


def await_waiter(database: Database) -> None:
    """Wait until somebody waits for an owner's lock, as the server says it."""
    deadline = time.monotonic() + PATIENCE_S
    while database.kind in WAITING:
        with database.engine.connect() as connection:
            if connection.scalar(text(WAITING[database.kind])):
                return
        assert time.monotonic() < deadline
        time.sleep(0.2)  # MariaDB shows what it showed before to who asks again within 0.1 s
    time.sleep(0.2)  # SQLite tells nobody; a waiter that is late makes the test easier, not wrong


def test_a_sync_of_another_process_waits_for_the_lock_and_loses_nothing(database):
    tasks = TaskList(database)
    Mobync(tasks.store).apply(0, [diff("create", id="a", name="milk")], "bob")
    with (
        waiter(database, "hold", "later", 1_700_000_000_009) as (first_said, go_first),
        waiter(database, "pass", "earlier") as (second_said, go_second),
    ):
        assert (first_said(), second_said()) == ("ready", "ready")
        go_first()
        assert first_said() == "holds"
        go_second()
        assert second_said() == "begins"
        await_waiter(database)
        go_first()
        first, second = json.loads(first_said()), json.loads(second_said())
    assert first["diffs"] == []
    (news,) = second["diffs"]
    assert json.loads(news["json_data"]) == {"id": "a", "name": "later"}
    assert [row["logical_clock"] for row in tasks.log()] == [0, 1]
    assert tasks.rows()["a"]["name"] == "later"
