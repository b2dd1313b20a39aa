"""mobync.sqlalchemy: log rows go in as plain values, and lose nothing by it."""

from __future__ import annotations

import json
from typing import Any

import databases
import pytest
from databases import Database
from sqlalchemy import Column, Integer, MetaData, String, Table, Text, TypeDecorator, select
from sqlalchemy.types import TypeEngine
from task_list import TaskList, diff, statements, task_table

from mobync import InvalidDiffError, Mobync
from mobync.sqlalchemy import SQLAlchemySynchronizer, _plain_log, diffs_table

database = databases.database

DIALECTS = "sqlite", "postgresql", "mysql", "mariadb"

HARD_JSON = [
    r'{"id": "a", "name": "\u00e4\ud83d\ude00\/\b\f\n\r\t\"\\ "}',
    r'{ "id":"b","name":"it\u0027s; -- % %s :x $1 {}" }',
    '{"id": "c", "name": "äöü😀\u2028", "rank": 7, "done": true}',
    r'{"id": "d", "name": "\"id\": \"x\", \"logical_clock\": 99", "rank": null}',
]


def sent(json_data: str) -> dict[str, Any]:
    return {**diff("create"), "json_data": json_data}


def log_inserts(seen: list[str]) -> list[str]:
    return [statement for statement in seen if statement.startswith("INSERT INTO diffs (")]


def reads_json(seen: list[str]) -> bool:
    return all("json_to_recordset" in text for text in log_inserts(seen))


def many_rows() -> list[dict[str, Any]]:
    """So many that SQLite's driver gets them as tuples."""
    return [sent(json.dumps({"id": f"m{i}", "name": f'"{i}" é'})) for i in range(150)]


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("more", [[], many_rows()], ids=["few", "many"])
def test_what_is_logged_is_what_was_sent(database, ascii_only, more):
    lists = TaskList(database)
    pushed = [*map(sent, HARD_JSON), *more]
    body = {"logical_clock": 0, "diffs": pushed}
    with statements(database.engine) as seen:
        Mobync(lists.store).apply_json(json.dumps(body, ensure_ascii=ascii_only), "bob")

    assert reads_json(seen) == (database.kind == "postgresql")
    assert lists.log() == [
        {**row, "owner": "bob", "logical_clock": clock} for clock, row in enumerate(pushed)
    ]


def with_own_log(database: Database, *columns: Column[Any]) -> SQLAlchemySynchronizer:
    """On an app's own table for the log."""
    metadata = MetaData()
    tasks, log = task_table(metadata), Table("diffs", metadata, *columns)
    store = SQLAlchemySynchronizer(database.engine, {"tasks": tasks}, diffs=log)
    metadata.create_all(database.engine)
    return store


def log_columns(**types: TypeEngine[Any]) -> list[Column[Any]]:
    """The columns of a log, some of them of other types."""
    return [
        Column(c.name, types.get(c.name, c.type), primary_key=c.primary_key)
        for c in diffs_table(MetaData()).columns
    ]


def test_the_columns_of_an_own_log_may_stand_in_any_order(database):
    store = with_own_log(database, *reversed(log_columns()), Column("seen_by", Integer))
    pushed = many_rows()
    clock = Mobync(store).apply(0, pushed, "bob")["logical_clock"]

    assert clock == len(pushed)
    reply = Mobync(store).apply(0, [], "bob")
    assert [(row["id"], row["json_data"]) for row in reply["diffs"]] == [
        (row["id"], row["json_data"]) for row in pushed
    ]


def test_a_text_that_looks_like_an_escaped_nul_stays_as_it_is(database):
    lists = TaskList(database)
    text = r'{"id": "a", "name": "C:\\u0000"}'
    Mobync(lists.store).apply(0, [sent(text)], "bob")
    assert lists.log()[0]["json_data"] == text
    assert lists.rows()["a"]["name"] == r"C:\u0000"


def test_a_large_push_goes_in_several_statements(database, monkeypatch):
    monkeypatch.setattr(_plain_log, "_MOST_CHARACTERS", 1000)
    lists = TaskList(database)
    pushed = [diff("create", id=f"t{i}", name="x" * 90) for i in range(20)]
    with statements(database.engine) as seen:
        reply = Mobync(lists.store).apply(0, pushed, "bob")

    assert reply["logical_clock"] == 20
    assert [row["id"] for row in lists.log()] == [d["id"] for d in pushed]
    assert (len(log_inserts(seen)) > 1) == (database.kind == "postgresql")


@pytest.mark.parametrize("field", ["id", "model"])
def test_what_is_too_long_for_the_log_is_refused_by_name(database, field):
    lists = TaskList(database)
    row = {**sent('{"id": "a"}'), "owner": "bob", field: "é" * 256}
    with (
        pytest.raises(InvalidDiffError, match=f"'{field}' is longer than 255 characters"),
        lists.store.transaction("bob") as inside,
    ):
        inside.create("diffs", json.dumps(row, ensure_ascii=False))
    assert lists.log() == []


def test_a_nul_is_refused_by_name_and_not_cut_off(database):
    lists = TaskList(database)
    row = {**sent("cut\0off"), "owner": "bob"}
    with (
        pytest.raises(InvalidDiffError, match=r"'json_data' must not contain U\+0000"),
        lists.store.transaction("bob") as inside,
    ):
        inside.create("diffs", json.dumps(row))
    assert lists.log() == []


@pytest.mark.parametrize("indent", [None, 1])
def test_a_row_of_another_owner_is_not_logged(database, indent):
    lists = TaskList(database)
    row = {**sent('{"id": "a"}'), "owner": "eve"}
    with (
        pytest.raises(ValueError, match="a row of another owner"),
        lists.store.transaction("bob") as inside,
    ):
        inside.create("diffs", json.dumps(row, indent=indent))
    assert lists.log() == lists.log("eve") == []


def test_the_clock_goes_on_from_rows_in_another_layout(database):
    lists = TaskList(database)
    row = {**sent('{"id": "a"}'), "owner": "bob", "logical_clock": 6}
    with lists.store.transaction("bob") as inside:
        inside.create("diffs", json.dumps(row, indent=1))
    assert Mobync(lists.store).apply(0, [diff("create", id="b")], "bob")["logical_clock"] == 8
    assert [row["logical_clock"] for row in lists.log()] == [6, 7]


def test_a_default_of_the_apps_own_log_column_is_made_for_each_row(database):
    metadata, numbers = MetaData(), iter(range(100))
    tasks, log = task_table(metadata), diffs_table(metadata)
    log.append_column(Column("number", Integer, default=lambda: next(numbers)))
    metadata.create_all(database.engine)
    store = SQLAlchemySynchronizer(database.engine, {"tasks": tasks})
    Mobync(store).apply(0, [diff("create", id=f"t{i}") for i in range(3)], "bob")

    with database.engine.connect() as connection:
        numbered = connection.execute(select(log.c.number).order_by(log.c.logical_clock))
        assert numbered.scalars().all() == [0, 1, 2]


class Sealed(TypeDecorator[str]):
    """What an app may want of one database: that nobody reads its log there."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return None if value is None else f"sealed:{value}"

    def process_result_value(self, value: str | None, dialect: Any) -> str | None:
        return None if value is None else value.removeprefix("sealed:")


@pytest.mark.parametrize("count", [3, 150])
def test_a_type_that_the_apps_log_has_on_this_database_is_used(database, count):
    sealed = Text().with_variant(Sealed(), *DIALECTS)
    store = with_own_log(database, *log_columns(json_data=sealed))
    pushed = many_rows()[:count]
    Mobync(store).apply(0, pushed, "bob")

    with database.engine.connect() as connection:
        stored = connection.exec_driver_sql("SELECT json_data FROM diffs").scalars().all()
    assert sorted(stored) == sorted(f"sealed:{row['json_data']}" for row in pushed)
    reply = Mobync(store).apply(0, [], "bob")
    assert [row["json_data"] for row in reply["diffs"]] == [row["json_data"] for row in pushed]


def test_a_length_that_the_apps_log_has_on_this_database_is_kept(database):
    short = Text().with_variant(String(60), *DIALECTS)
    store = with_own_log(database, *log_columns(json_data=short))
    long = sent(json.dumps({"id": "long", "name": "x" * 60}))
    with pytest.raises(
        InvalidDiffError, match="'json_data' is longer than 60 characters"
    ) as raised:
        Mobync(store).apply(0, [*many_rows()[:2], long], "bob")
    assert raised.value.index == 2
    assert Mobync(store).apply(0, many_rows()[:2], "bob")["logical_clock"] == 2
