"""mobync.sqlalchemy: the log and the heads as tables, and what docs/databases.md says of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import databases
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata, produce_migrations, render_python_code
from alembic.migration import MigrationContext
from alembic.operations import Operations
from databases import Database, open_database
from sqlalchemy import Column, MetaData, String, Table, create_engine, inspect, text
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.schema import CreateIndex, CreateTable
from task_list import TaskList, diff, statements, task_table

from mobync import Mobync
from mobync.sqlalchemy import SQLAlchemySynchronizer, diffs_table

database = databases.database

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "databases.md"
SEVEN = ["id", "owner", "logical_clock", "utc_timestamp", "type", "model", "json_data"]


# ---- a rule --------------------------------------------------------------------------------------


def test_the_rule_of_the_page_refuses_with_its_reason_and_never_fails():
    (code,) = re.findall(
        r"```python\n(import json\n.*?class Items.*?)```", DOCUMENT.read_text(), re.S
    )
    names: dict[str, Any] = {"SQLAlchemySynchronizer": SQLAlchemySynchronizer}
    exec(compile(code, "docs/databases.md: a rule", "exec"), names)
    metadata = MetaData()
    own = [Column("owner", String(40)), Column("cents", sa.Integer)]
    items = Table("items", metadata, Column("id", String(40), primary_key=True), *own)
    engine = create_engine("sqlite://")
    mobync = Mobync(names["Items"](engine, {"items": items}), on_refusal="skip")
    metadata.create_all(engine)
    values = [150, None, 0, -1.0, "-1", "a", [1], True, {}]
    diffs = [diff("create", model="items", id=f"i{n}", cents=v) for n, v in enumerate(values)]

    refused = mobync.apply(0, diffs, "anna")["refused"]

    assert len(refused) == len(values) - 2
    told = [each["message"] for each in refused if each["code"] == "unauthorized"]
    assert told == ["a price must be positive"] * 2


# ---- the tables ---------------------------------------------------------------------------------


def test_create_all_makes_the_log_with_its_keys_and_the_heads(database):
    metadata = MetaData()
    diffs_table(metadata)
    metadata.create_all(database.engine)
    made = inspect(database.engine)

    assert [column["name"] for column in made.get_columns("diffs")] == [*SEVEN, "field_times"]
    nullable = [column["name"] for column in made.get_columns("diffs") if column["nullable"]]
    assert nullable == ["field_times"]
    assert made.get_pk_constraint("diffs")["constrained_columns"] == ["owner", "id"]
    (index,) = made.get_indexes("diffs")
    assert index["column_names"] == ["owner", "logical_clock"]
    assert index["unique"]
    assert made.get_pk_constraint("diffs_heads")["constrained_columns"] == ["owner"]
    assert made.get_pk_constraint("diffs_devices")["constrained_columns"] == ["owner", "device"]
    key = made.get_pk_constraint("diffs_parts")["constrained_columns"]
    assert key == ["owner", "device", "part", "piece"]


def test_the_log_may_have_another_name_and_schema(database):
    if database.kind == "sqlite":
        metadata = MetaData()
    else:
        schema = inspect(database.engine).default_schema_name
        metadata = MetaData(schema=schema)
    log = diffs_table(metadata, "sync_log")
    tasks = task_table(metadata)
    metadata.create_all(database.engine)
    assert {"sync_log", "sync_log_heads"} <= set(inspect(database.engine).get_table_names())

    store = SQLAlchemySynchronizer(database.engine, {"tasks": tasks}, diffs=log)
    mobync = Mobync(store, diffs_model_name="sync_log")
    assert mobync.apply(0, [diff("create", id="a")], "bob")["logical_clock"] == 1
    with store.transaction("bob") as inside:
        assert len(inside.read("sync_log")) == 1


def test_the_log_is_found_or_made_beside_the_models():
    engine = create_engine("sqlite://")
    for schema in (None, "app"):
        metadata = MetaData(schema=schema)
        SQLAlchemySynchronizer(engine, {"tasks": task_table(metadata)})
        names = {table.name for table in metadata.tables.values()}
        assert names == {"tasks", "diffs", "diffs_heads", "diffs_devices", "diffs_parts"}
        SQLAlchemySynchronizer(engine, {"tasks": Table("tasks", metadata)})
        assert len(metadata.tables) == 5
    with pytest.raises(ValueError, match=r"diffs=diffs_table\(metadata\)"):
        SQLAlchemySynchronizer(engine, {})
    engine.dispose()


def test_a_log_that_the_app_declared_itself_gets_its_heads(database):
    metadata = MetaData()
    own = Table(
        "diffs",
        metadata,
        Column("id", String(36), primary_key=True),
        Column("owner", String(36)),
        Column("logical_clock", sa.BigInteger),
        Column("utc_timestamp", sa.BigInteger),
        Column("type", sa.Enum("create", "update", "delete", name="operation")),
        Column("model", String(36)),
        Column("json_data", sa.Text),
        Column("received_at", sa.DateTime, server_default=sa.func.current_timestamp()),
    )
    tasks = task_table(metadata)
    store = SQLAlchemySynchronizer(database.engine, {"tasks": tasks})
    metadata.create_all(database.engine)
    mobync = Mobync(store)
    sent = [diff("create", id="a"), diff("update", id="a", name="x")]
    mobync.apply(0, sent[:1], "bob")
    mobync.apply(1, sent[1:], "bob")
    assert [d["type"] for d in mobync.apply(0, [], "bob")["diffs"]] == ["create", "update"]
    with database.engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count(own.c.received_at))) == 2


def test_the_log_keeps_large_clocks_and_texts_to_the_byte(database):
    metadata = MetaData()
    log = diffs_table(metadata)
    store = SQLAlchemySynchronizer(database.engine, {}, diffs=log)
    metadata.create_all(database.engine)
    greatest = 2**53 - 1
    texts = [
        '{"id":"a","n":9007199254740993,"m":0.1000,"big":1e400}',
        '{ "id" : "ä\\u00e4 😀\'\\\\ %s :x" }',
        json.dumps({"id": "long", "text": "ä😀" * 200_000}, ensure_ascii=False),
    ]
    rows = [
        {
            **diff("create"),
            "id": f"é{n}",
            "owner": "bob",
            "json_data": data,
            "logical_clock": greatest - n,
            "utc_timestamp": greatest,
        }
        for n, data in enumerate(texts)
    ]
    with store.transaction("bob") as inside:
        inside.create_many("diffs", [json.dumps(row) for row in rows])
    with store.transaction("bob") as inside:
        found = {row["id"]: row for row in inside.read("diffs")}
    assert found == {row["id"]: row for row in rows}
    assert store.highest_logical_clock("bob") == greatest


# ---- Alembic ------------------------------------------------------------------------------------


def test_alembics_autogenerate_sees_the_tables_and_its_migration_makes_them(database):
    metadata = MetaData()
    diffs_table(metadata)
    task_table(metadata)
    with database.engine.begin() as connection:
        context = MigrationContext.configure(connection)
        migration = produce_migrations(context, metadata)
        assert migration.upgrade_ops is not None
        code = render_python_code(migration.upgrade_ops, migration_context=context)
        assert "create_table('diffs'" in code
        assert "create_table('diffs_heads'" in code
        names = {"op": Operations(context), "sa": sa, "mysql": mysql}
        exec("def upgrade():\n    " + code.replace("\n", "\n    "), names)
        names["upgrade"]()
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_after_create_all_alembic_finds_nothing_to_do(database):
    metadata = MetaData()
    diffs_table(metadata)
    metadata.create_all(database.engine)
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


# ---- the window is an index range ---------------------------------------------------------------


def window_plan(database: Database) -> str:
    """How the database reads the window of a sync of one owner among many."""
    tasks = TaskList(database)
    log = tasks.metadata.tables["diffs"]
    rows = [
        {**diff("create", id="a"), "owner": f"owner {n % 20}", "logical_clock": n // 20}
        for n in range(4000)
    ]
    with database.engine.begin() as connection:
        connection.execute(log.insert(), rows)
        connection.execute(text(ANALYZE[database.kind]))
    mobync = Mobync(tasks.store)
    seen: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *others: Any) -> None:
        seen.append((statement, parameters))

    sa.event.listen(database.engine, "before_cursor_execute", note)
    mobync.apply(199, [], "owner 7")
    sa.event.remove(database.engine, "before_cursor_execute", note)
    ((statement, parameters),) = [s for s in seen if "json_data" in s[0]]
    with database.engine.connect() as connection:
        explain = {"sqlite": "EXPLAIN QUERY PLAN "}.get(database.kind, "EXPLAIN ")
        plan = connection.exec_driver_sql(explain + statement, parameters)
        return "\n".join(str(dict(row)) for row in plan.mappings())


ANALYZE = {
    "sqlite": "ANALYZE",
    "postgresql": "ANALYZE diffs",
    "mariadb": "ANALYZE TABLE diffs",
}

PLAN = {
    "sqlite": r"USING INDEX diffs_owner_logical_clock \(owner=\? AND logical_clock>\?\)",
    "postgresql": r"Index Scan using diffs_owner_logical_clock[\s\S]*Index Cond: "
    r"\(\(\(?owner.* = 'owner 7'.*\) AND \(logical_clock >= ",
    "mariadb": r"'type': 'range'.*'key': 'diffs_owner_logical_clock', 'key_len': '1030'",
}


def test_the_window_is_read_as_an_index_range(database):
    assert re.search(PLAN[database.kind], window_plan(database))


# ---- what the document says ---------------------------------------------------------------------

DIALECTS = {
    "SQLite": sqlite.dialect(),
    "PostgreSQL": postgresql.dialect(),
    "MariaDB": mysql.dialect(),
}


def statements_of(dialect: sa.Dialect) -> str:
    metadata = MetaData()
    log = diffs_table(metadata)
    heads = metadata.tables["diffs_heads"]
    (index,) = log.indexes
    others = [heads, metadata.tables["diffs_devices"], metadata.tables["diffs_parts"]]
    parts = [CreateTable(log), CreateIndex(index), *map(CreateTable, others)]
    lines = "\n\n".join(str(part.compile(dialect=dialect)).strip() + ";" for part in parts)
    return re.sub(r"[ \t]+$", "", lines, flags=re.MULTILINE).replace("\t", "    ")


@pytest.mark.parametrize("name", DIALECTS)
def test_the_documented_ddl_is_what_create_all_sends(name):
    section = DOCUMENT.read_text().split(f"### {name}\n")[1]
    documented = section.split("```sql\n")[1].split("```")[0].strip()
    assert documented == statements_of(DIALECTS[name])


@pytest.mark.parametrize("kind", databases.KINDS)
def test_the_documented_ddl_makes_tables_that_work(kind, tmp_path):
    name = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mariadb": "MariaDB"}[kind]
    with open_database(kind, tmp_path) as database:
        with database.engine.begin() as connection:
            for statement in statements_of(DIALECTS[name]).split(";"):
                if statement.strip():
                    connection.execute(text(statement))
        with statements(database.engine) as seen:
            tasks = TaskList(database)
        assert [s for s in seen if "CREATE" in s and "diffs" in s] == []
        Mobync(tasks.store).apply(0, [diff("create", id="a")], "bob")
        assert len(tasks.log()) == 1
