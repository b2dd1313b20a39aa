"""What a database says when it cannot: a device is told to come again, and only bugs are a 500."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from typing import Any

import databases
import pymysql
import pytest
import requests
from databases import Database, open_database
from http_servers import on_uvicorn
from server_process import mobync
from sqlalchemy import event, text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, OperationalError
from task_list import TaskList, diff

from mobync import InvalidDiffError, Mobync, UnavailableError
from mobync.http import Endpoint
from mobync.server import database as database_module
from mobync.server.app import create_app
from mobync.server.settings import Settings
from mobync.server.tokens import Tokens
from mobync.sqlalchemy import DocumentSynchronizer, SQLAlchemySynchronizer, create_tables
from mobync.sqlalchemy._errors import Kind, kind_of

database = databases.database

on_servers = pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)

PATIENCE_S = 60
SECRET = "a secret for tests, long enough"


# ---- the table ----------------------------------------------------------------------------------


def said_by_postgresql(sqlstate: str) -> DBAPIError:
    class Said(Exception):
        pass

    original = Said("no")
    original.sqlstate = sqlstate  # type: ignore[attr-defined]
    return OperationalError("UPDATE", {}, original)


def said_by_mariadb(number: int) -> DBAPIError:
    return OperationalError("UPDATE", {}, pymysql.err.OperationalError(number, "no"))


def said_by_sqlite(words: str, code: int | None = None) -> DBAPIError:
    original = sqlite3.OperationalError(words)
    if code is not None:
        original.sqlite_errorcode = code
    return OperationalError("UPDATE", {}, original)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (said_by_postgresql("40001"), Kind.CONFLICT),
        (said_by_postgresql("55P03"), Kind.LOCKED),
        (said_by_postgresql("57014"), Kind.UNAVAILABLE),
        (said_by_postgresql("53100"), Kind.UNAVAILABLE),
        (said_by_postgresql("08P01"), Kind.UNAVAILABLE),
        (said_by_postgresql("25006"), Kind.SPOILED),
        (said_by_postgresql("22P05"), Kind.MISFIT),
        (said_by_postgresql("54000"), Kind.MISFIT),
        (said_by_postgresql("23505"), Kind.VIOLATION),
        (said_by_postgresql("42P01"), Kind.BUG),
        (said_by_mariadb(1213), Kind.CONFLICT),
        (said_by_mariadb(1205), Kind.LOCKED),
        (said_by_mariadb(1969), Kind.UNAVAILABLE),
        (said_by_mariadb(1021), Kind.UNAVAILABLE),
        (said_by_mariadb(2013), Kind.UNAVAILABLE),
        (said_by_mariadb(1047), Kind.SPOILED),
        (said_by_mariadb(1290), Kind.SPOILED),
        (said_by_mariadb(1153), Kind.TOO_LARGE),
        (said_by_mariadb(1366), Kind.MISFIT),
        (said_by_mariadb(4025), Kind.VIOLATION),
        (said_by_mariadb(1146), Kind.BUG),
        (said_by_sqlite("database is locked"), Kind.CONFLICT),
        (said_by_sqlite("database is locked", 517), Kind.CONFLICT),
        (said_by_sqlite("database or disk is full"), Kind.UNAVAILABLE),
        (said_by_sqlite("disk I/O error", 10), Kind.UNAVAILABLE),
        (said_by_sqlite("attempt to write a readonly database"), Kind.SPOILED),
        (said_by_sqlite("string or blob too big"), Kind.TOO_LARGE),
        (said_by_sqlite("UNIQUE constraint failed: t.a"), Kind.VIOLATION),
        (said_by_sqlite("no such table: t"), Kind.BUG),
        (OperationalError(None, None, OSError("refused")), Kind.UNAVAILABLE),
        (IntegrityError(None, None, Exception("at the commit")), Kind.VIOLATION),
        (DataError("UPDATE", {}, Exception("too long")), Kind.MISFIT),
        (ValueError("not of a database"), Kind.BUG),
    ],
    ids=lambda value: str(getattr(value, "orig", value)),
)
def test_what_each_database_says_has_one_meaning(error: Exception, kind: Kind) -> None:
    assert kind_of(error) is kind


# ---- a database that cannot just now ------------------------------------------------------------

SLEEP = {"postgresql": "SELECT pg_sleep(60)", "mariadb": "SELECT sleep(60) FROM seq_1_to_2"}
SOON = {
    "postgresql": "SET statement_timeout = 50",
    "mariadb": "SET SESSION max_statement_time = 0.05",
}
READ_ONLY = {
    "sqlite": "PRAGMA query_only = 1",
    "postgresql": "SET default_transaction_read_only = on",
    "mariadb": "SET SESSION TRANSACTION READ ONLY",
}


def on_connect(engine: Engine, statement: str) -> Callable[[], None]:
    """Have each new connection execute something; returns what ends that."""

    def execute(connection: Any, record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(statement)
        cursor.close()
        connection.commit()

    event.listen(engine, "connect", execute)
    return lambda: event.remove(engine, "connect", execute)


@on_servers
def test_a_statement_that_takes_too_long_is_an_outage_that_passes(database: Database) -> None:
    class Slow(SQLAlchemySynchronizer):
        def validate_create(self, owner_id: str, **diff: Any) -> bool:
            self.connection.exec_driver_sql(SLEEP[database.kind])
            return True

    tasks = TaskList(database, Slow)
    engine = database.new_engine()
    on_connect(engine, SOON[database.kind])
    with pytest.raises(UnavailableError) as caught:
        Mobync(tasks.another_store(engine)).apply(0, [diff("create", id="a")], "bob")
    assert isinstance(caught.value.__cause__, DBAPIError)


def test_a_connection_to_a_server_that_became_read_only_is_not_used_again(
    database: Database,
) -> None:
    """As after a failover, where the old server goes on and answers every ping."""
    tasks = TaskList(database)
    engine = database.new_engine(pool_size=1, max_overflow=0, pool_pre_ping=True)
    fail_over = on_connect(engine, READ_ONLY[database.kind])
    mobync = Mobync(tasks.another_store(engine))
    with pytest.raises(UnavailableError):
        mobync.apply(0, [diff("create", id="a")], "bob")
    fail_over()
    assert mobync.apply(0, [diff("create", id="a")], "bob")["logical_clock"] == 1


def test_a_device_is_told_to_come_again_by_any_adapter(database: Database) -> None:
    tasks = TaskList(database)
    engine = database.new_engine()
    on_connect(engine, READ_ONLY[database.kind])
    endpoint = Endpoint(Mobync(tasks.another_store(engine)), lambda token, headers: token)
    body = json.dumps({"auth_token": "bob", "logical_clock": 0, "diffs": [diff("create", id="a")]})
    answer = endpoint.sync({"Content-Type": "application/json"}, body.encode())
    assert (answer.status, answer.code) == (503, "unavailable")
    assert answer.headers["Retry-After"] == "1"


def test_a_health_check_finds_a_database_that_takes_no_writes(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = database.new_engine()
    create_tables(engine, DocumentSynchronizer(engine).metadata)
    monkeypatch.setattr("mobync.server.app.new_engine", lambda url, connections: engine)
    monkeypatch.setenv("MOBYNC_SECRET", SECRET)
    url = database.url.render_as_string(hide_password=False)
    token = Tokens(SECRET).for_owner("anna", 60)
    body = {"auth_token": token, "logical_clock": 0, "diffs": [diff("create", id="a")]}
    with on_uvicorn(create_app(Settings(url, None, events="off"))) as address:
        root = f"http://{address[0]}:{address[1]}"
        assert requests.get(f"{root}/health", timeout=PATIENCE_S).json()["status"] == "ok"
        with engine.connect() as connection:
            assert connection.scalar(text("SELECT count(*) FROM diffs_heads")) == 0

        engine.dispose()
        on_connect(engine, READ_ONLY[database.kind])
        health = requests.get(f"{root}/health", timeout=PATIENCE_S)
        assert (health.status_code, health.json()["status"]) == (503, "unavailable")
        refused = requests.post(f"{root}/sync", json=body, timeout=PATIENCE_S)
        assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
        counted = requests.get(f"{root}/metrics", timeout=PATIENCE_S).text
    assert 'mobync_database_errors_total{kind="spoiled"} 2.0' in counted


def test_a_health_check_does_not_mind_a_writer(tmp_path: Any) -> None:
    with open_database("sqlite", tmp_path) as database:
        engine = database.new_engine(connect_args={"timeout": 0.01})
        store = DocumentSynchronizer(engine)
        create_tables(engine, store.metadata)
        with store.transaction("bob"):
            database_module.check_writes(engine, store)


# ---- more than it takes at once ------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["create", "update"])
def test_a_row_too_large_for_a_packet_is_refused_and_no_other(tmp_path: Any, kind: str) -> None:
    """Quotes are sent doubled: 5 MiB of them are 20 MiB of a statement, where 16 MiB may be."""
    quotes = '"' * (5 * 1024 * 1024)
    with open_database("mariadb", tmp_path) as database:
        store = DocumentSynchronizer(database.engine)
        create_tables(database.engine, store.metadata)
        mobync = Mobync(store)
        before = [diff("create", id="a", text="")] if kind == "update" else []
        mobync.apply(0, before, "bob")
        request = [diff("create", id="b"), diff(kind, id="a", text=quotes), diff("create", id="c")]
        with pytest.raises(InvalidDiffError, match="max_allowed_packet") as caught:
            mobync.apply(len(before), request, "bob")
        assert (caught.value.index, caught.value.diff_id) == (1, request[1]["id"])
        reply = Mobync(store, on_refusal="skip").apply(len(before), request, "bob")
        assert [refusal["id"] for refusal in reply["refused"]] == [request[1]["id"]]
        assert {document.id for document in store.documents("bob")} >= {"b", "c"}


# ---- commands ------------------------------------------------------------------------------------


def test_a_command_says_what_the_database_says(tmp_path: Any) -> None:
    with open_database("postgresql", tmp_path) as database:
        store = DocumentSynchronizer(database.engine)
        create_tables(database.engine, store.metadata)
        Mobync(store).apply(0, [diff("create", id="a")], "bob")
        options = f"{database.url.query['options']} -cdefault_transaction_read_only=on"
        url = database.url.update_query_dict({"options": options})
        named = url.render_as_string(hide_password=False)
        done = mobync(tmp_path, "compact", "bob", "--database", named)
    assert done.returncode == 1
    assert "read-only transaction" in done.stderr
