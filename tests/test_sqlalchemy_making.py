"""create_tables: several processes at once, and one that is killed halfway."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import databases
import pytest
from databases import Database
from sqlalchemy import (
    Column,
    Index,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    func,
    inspect,
    text,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateTable
from task_list import TaskList, diff, statements

from mobync import Mobync
from mobync.sqlalchemy import (
    SQLAlchemySynchronizer,
    _making,
    create_tables,
    diffs_table,
    documents_table,
)

database = databases.database

PROCESSES = 6
ROUNDS = 8
PATIENCE_S = 60

MAKER = """
import sys
from sqlalchemy import MetaData, create_engine
from mobync.sqlalchemy import create_tables, diffs_table, documents_table
metadata = MetaData()
diffs_table(metadata), documents_table(metadata)
for line in sys.stdin:
    engine = create_engine(line.strip())
    print("ready", flush=True)
    sys.stdin.readline()
    create_tables(engine, metadata)
    engine.dispose()
    print("made", flush=True)
"""

KILLED = """
import os, signal, sys
from sqlalchemy import MetaData, create_engine, event
from mobync.sqlalchemy import create_tables, diffs_table
metadata = MetaData()
diffs_table(metadata)
engine = create_engine(sys.argv[1])
@event.listens_for(engine, "before_cursor_execute")
def die(connection, cursor, statement, *others):
    if "INDEX" in statement:
        os.kill(os.getpid(), signal.SIGKILL)
create_tables(engine, metadata)
"""


def url_of(database: Database) -> str:
    return database.url.render_as_string(hide_password=False)


def log() -> MetaData:
    metadata = MetaData()
    diffs_table(metadata)
    return metadata


def test_processes_that_start_together_all_find_the_tables_made(database):
    metadata = log()
    documents_table(metadata)
    makers = [
        subprocess.Popen(
            [sys.executable, "-c", MAKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(PROCESSES)
    ]

    def tell(line: str, answer: str) -> None:
        for maker in makers:
            maker.stdin.write(line + "\n")
            maker.stdin.flush()
        for maker in makers:
            assert maker.stdout.readline() == answer + "\n", maker.communicate()[1]

    try:
        for _ in range(ROUNDS):
            tell(url_of(database), "ready")
            tell("go", "made")
            assert set(inspect(database.engine).get_table_names()) == set(metadata.tables)
            assert has_index(database)
            database.engine.dispose()
            metadata.drop_all(database.engine)
    finally:
        for maker in makers:
            maker.kill()
            maker.communicate()


def has_index(database: Database) -> bool:
    (index,) = inspect(database.engine).get_indexes("diffs")
    return index["column_names"] == ["owner", "logical_clock"] and bool(index["unique"])


def test_a_process_that_is_killed_before_the_index_does_not_leave_a_log_without_it(database):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, url_of(database)], timeout=PATIENCE_S, check=False
    )
    assert done.returncode == -9
    tables = inspect(database.engine).get_table_names()
    assert ("diffs" in tables) == (database.kind == "mariadb")  # which commits each statement
    create_tables(database.engine, log())
    assert has_index(database)


def test_a_table_that_another_process_makes_meanwhile_is_seen_to_get_its_index(
    database, monkeypatch
):
    metadata = log()
    create = _making._create

    def create_after_another(*arguments: Any) -> None:
        with database.engine.begin() as other:
            other.execute(CreateTable(metadata.tables["diffs"], if_not_exists=True))
        create(*arguments)

    monkeypatch.setattr(_making, "_create", create_after_another)
    create_tables(database.engine, metadata)
    assert has_index(database)


def test_what_is_there_is_left_as_it_is_and_nothing_is_locked_for_it(database):
    tasks = TaskList(database)
    Mobync(tasks.store).apply(0, [diff("create", id="a")], "bob")
    with database.new_engine().connect() as other:
        if database.kind == "sqlite":
            other.exec_driver_sql("BEGIN IMMEDIATE")
        create_tables(database.engine, tasks.metadata)
        other.rollback()
    assert len(tasks.log()) == 1


def test_an_error_that_is_no_race_is_raised(database):
    with database.engine.begin() as connection:
        connection.execute(text("CREATE TABLE diffs (id VARCHAR(9))"))
    with pytest.raises(DBAPIError, match="owner"):
        create_tables(database.engine, log())
    assert inspect(database.engine).get_table_names().count("diffs_heads") == (
        database.kind == "mariadb"
    )


def test_an_index_whose_name_the_database_cut_short_is_known_again(database):
    metadata = MetaData()
    Table("t", metadata, Column("c" * 62, String(9), index=True))
    for _ in range(2):
        create_tables(database.engine, metadata)
    assert len(inspect(database.engine).get_indexes("t")) == 1


def test_an_index_over_an_expression_is_made_once(database):
    metadata = MetaData()
    table = Table("t", metadata, Column("name", String(9)))
    if database.kind != "mariadb":  # which has none
        Index("t_lower", func.lower(table.c.name))
    Index("t_backwards", table.c.name.desc())
    for _ in range(2):
        create_tables(database.engine, metadata)


@pytest.mark.parametrize("recipe", ["AUTOCOMMIT", "begin event"])
def test_all_are_made_or_none_however_the_app_has_set_its_engine(recipe, tmp_path):
    level = "AUTOCOMMIT" if recipe == "AUTOCOMMIT" else None
    options = {} if level is None else {"isolation_level": level}
    engine = create_engine(f"sqlite:///{tmp_path}/x.db", **options)
    if recipe == "begin event":
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    metadata = log()
    index = Index("broken", text("no_such_column"), _table=metadata.tables["diffs"])
    with pytest.raises(DBAPIError, match="no_such_column"):
        create_tables(engine, metadata)
    assert inspect(engine).get_table_names() == []
    metadata.tables["diffs"].indexes.remove(index)
    create_tables(engine, metadata)
    assert set(inspect(engine).get_table_names()) == set(metadata.tables)
    engine.dispose()


def test_tables_of_a_schema_that_the_engine_translates_are_made_and_used(database):
    engine = database.new_engine(execution_options={"schema_translate_map": {"tenant": None}})
    metadata = MetaData(schema="tenant")
    tasks = Table(
        "tasks",
        metadata,
        Column("id", String(40), primary_key=True),
        Column("owner", String(40), nullable=False, index=True),
    )
    diffs_table(metadata)
    create_tables(engine, metadata)
    with statements(engine) as seen:
        create_tables(engine, metadata)
    assert not [s for s in seen if s.startswith("CREATE")]
    assert {"tasks", "diffs", "diffs_heads"} <= set(inspect(database.engine).get_table_names())
    mobync = Mobync(SQLAlchemySynchronizer(engine, {"tasks": tasks}))
    sent = [diff("create", id=str(n)) for n in range(150)]
    assert mobync.apply(0, sent, "bob")["logical_clock"] == 150


def test_what_was_made_and_is_not_there_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(_making, "_create", lambda *_: None)
    engine = create_engine(f"sqlite:///{tmp_path}/x.db")
    metadata = MetaData()
    Table("things", metadata, Column("id", String(40), primary_key=True))
    with pytest.raises(RuntimeError, match="still missing: things"):
        create_tables(engine, metadata)
    engine.dispose()
