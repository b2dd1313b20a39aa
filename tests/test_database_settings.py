"""A database that would change what devices send is refused by name, before it does."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import databases
import pytest
from databases import Database, open_database, server_url
from server_process import mobync
from sqlalchemy import JSON, Column, MetaData, String, Table, create_engine, event, text
from sqlalchemy.engine import URL, Engine
from sqlalchemy.pool import NullPool
from task_list import TaskList, diff

from mobync import InvalidDiffError, Mobync
from mobync.sqlalchemy import (
    DocumentSynchronizer,
    SQLAlchemySynchronizer,
    create_tables,
    diffs_table,
)

database = databases.database

MILK = "milk \N{GLASS OF MILK}"


@pytest.fixture
def mariadb(tmp_path: Path) -> Iterator[Database]:
    with open_database("mariadb", tmp_path) as opened:
        yield opened


def set_on_connect(engine: Engine, setting: str) -> Engine:
    @event.listens_for(engine, "connect")
    def execute(connection, record):
        connection.cursor().execute(f"SET SESSION {setting}")

    return engine


# ---- MariaDB and MySQL ---------------------------------------------------------------------------

LAX = "sql_mode = 'NO_ENGINE_SUBSTITUTION'"


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        (LAX, "sql_mode"),
        ("sql_mode = CONCAT(@@sql_mode, ',EMPTY_STRING_IS_NULL')", "NULL.*EMPTY_STRING_IS_NULL"),
        ("sql_mode = CONCAT(@@sql_mode, ',PAD_CHAR_TO_FULL_LENGTH')", "spaces.*PAD_CHAR_TO"),
        ("character_set_client = utf8mb3", "character_set_client"),
        ("character_set_connection = latin1", "character_set_connection"),
    ],
)
def test_a_connection_of_mariadb_that_changes_values_is_refused(mariadb, setting, named):
    tasks = TaskList(mariadb)
    engine = set_on_connect(mariadb.new_engine(), setting)
    with pytest.raises(ValueError, match=named):
        create_tables(engine, tasks.metadata)
    with pytest.raises(ValueError, match=named):
        Mobync(tasks.another_store(engine)).apply(0, [diff("create", id="a", name=MILK)], "bob")
    assert tasks.rows() == {}


def test_every_connection_of_mariadb_is_looked_at(mariadb):
    tasks = TaskList(mariadb)
    engine = mariadb.new_engine(pool_size=1, max_overflow=0)
    served = Mobync(tasks.another_store(engine))
    served.apply(0, [diff("create", id="a", name=MILK)], "bob")
    set_on_connect(engine, LAX)
    engine.dispose()
    with pytest.raises(ValueError, match="STRICT_TRANS_TABLES"):
        served.apply(1, [diff("update", id="a", name=MILK)], "bob")


def test_traditional_mode_is_strict_too(mariadb):
    tasks = TaskList(mariadb)
    engine = set_on_connect(mariadb.new_engine(), "sql_mode = 'TRADITIONAL'")
    create_tables(engine, tasks.metadata)
    Mobync(tasks.another_store(engine)).apply(0, [diff("create", id="a", name=MILK)], "bob")
    assert tasks.rows()["a"]["name"] == MILK


@pytest.mark.parametrize(
    "table", ["diffs", "diffs_heads", "diffs_devices", "diffs_parts", "documents"]
)
def test_a_table_of_mobync_in_another_character_set_is_refused(mariadb, table):
    store = DocumentSynchronizer(mariadb.engine)
    create_tables(mariadb.engine, store.metadata)
    with mariadb.engine.begin() as connection:
        connection.execute(text(f"ALTER TABLE {table} CONVERT TO CHARACTER SET utf8mb3"))
    with pytest.raises(ValueError, match=f"'{table}'.*utf8mb3.*ALTER TABLE {table}"):
        create_tables(mariadb.engine, store.metadata)
    another = DocumentSynchronizer(mariadb.new_engine(), store.metadata)
    with pytest.raises(ValueError, match=f"'{table}'"):
        Mobync(another).apply(0, [diff("create", id="a", name=MILK)], "bob")


def test_a_letter_that_an_apps_own_column_does_not_know_is_refused_with_its_diff(mariadb):
    tasks = TaskList(mariadb)
    with mariadb.engine.begin() as connection:
        connection.execute(text("ALTER TABLE tasks CONVERT TO CHARACTER SET latin1"))
    sent = [diff("create", id="a", name="milk"), diff("create", id="b", name=MILK)]
    reply = Mobync(tasks.store, on_refusal="skip").apply(0, sent, "bob")
    assert [refusal["id"] for refusal in reply["refused"]] == [sent[1]["id"]]
    assert {row["name"] for row in tasks.rows().values()} == {"milk"}


# ---- PostgreSQL ----------------------------------------------------------------------------------


@pytest.fixture(params=["LATIN1", "SQL_ASCII"])
def narrow(request: pytest.FixtureRequest) -> Iterator[URL]:
    """A database of PostgreSQL in an encoding that cannot store every character."""
    name = f"mobync_{uuid.uuid4().hex[:16]}"
    server = create_engine(
        server_url("postgresql"), poolclass=NullPool, isolation_level="AUTOCOMMIT"
    )
    how = f"ENCODING '{request.param}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} {how}"))
    try:
        yield server.url.set(database=name)
    finally:
        with server.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


def test_a_database_of_postgresql_that_does_not_know_every_letter_is_refused(narrow, tmp_path):
    in_utf8 = narrow.update_query_dict({"client_encoding": "utf8"})
    engine = create_engine(in_utf8, poolclass=NullPool)
    store = DocumentSynchronizer(engine)
    with pytest.raises(ValueError, match="server_encoding"):
        create_tables(engine, store.metadata)
    store.metadata.create_all(engine)
    with pytest.raises(ValueError, match="server_encoding"):
        Mobync(store).apply(0, [diff("create", id="a", name=MILK)], "bob")

    url = narrow.render_as_string(hide_password=False)
    served = mobync(tmp_path, "serve", "--port", "0", "-d", url, MOBYNC_SECRET="x" * 40)
    assert served.returncode == 1
    assert "server_encoding" in served.stderr
    assert "Traceback" not in served.stderr


# ---- JSON in columns and documents ---------------------------------------------------------------

LEVELS = {"sqlite": 200, "postgresql": 200, "mariadb": 31}


def nested(levels: int, inner: str) -> str:
    return "[" * levels + inner + "]" * levels


@pytest.mark.parametrize("inner", ["1", ""])
def test_json_as_deep_as_the_column_takes_is_kept_and_deeper_is_refused_by_name(database, inner):
    metadata = MetaData()
    notes = Table(
        "notes",
        metadata,
        Column("id", String(40), primary_key=True),
        Column("owner", String(40), nullable=False),
        Column("value", JSON),
    )
    diffs_table(metadata)
    create_tables(database.engine, metadata)
    # By an URL of MySQL, too, MariaDB is MariaDB.
    engines = [database.engine]
    if database.kind == "mariadb":
        engines.append(create_engine(database.url.set(drivername="mysql+pymysql")))
    for number, engine in enumerate(engines):
        store = SQLAlchemySynchronizer(engine, {"notes": notes})
        most = LEVELS[database.kind]
        kept, refused = diff("create", "notes"), diff("create", "notes")
        kept["json_data"] = f'{{"id": "kept{number}", "value": {nested(most, inner)}}}'
        refused["json_data"] = f'{{"id": "refused", "value": {nested(most + 1, inner)}}}'
        reply = Mobync(store, on_refusal="skip").apply(number, [refused, kept], "bob")
        (refusal,) = reply["refused"]
        assert refusal["id"] == refused["id"]
        assert f"'value' is nested deeper than {most} levels" in refusal["message"]
        with store.transaction("bob") as inside:
            values = {row["id"]: row["value"] for row in inside.read("notes")}
        assert values[f"kept{number}"] == json.loads(nested(most, inner))
    for engine in engines[1:]:
        engine.dispose()


def test_a_document_is_kept_however_deep_a_diff_may_be(database):
    store = DocumentSynchronizer(database.engine)
    create_tables(database.engine, store.metadata)
    deep = diff("create")
    deep["json_data"] = f'{{"id": "a", "value": {nested(990, "1")}}}'
    Mobync(store).apply(0, [deep, diff("update", id="a", name=MILK)], "bob")
    (document,) = store.documents("bob")
    assert nested(990, "1") in document.text
    with pytest.raises(InvalidDiffError):
        deeper = diff("create")
        deeper["json_data"] = f'{{"id": "b", "value": {nested(1001, "1")}}}'
        Mobync(store).apply(1, [deeper], "bob")
