"""Makes tables, also if several processes start at once and each of them may be killed.

SQLite and PostgreSQL make everything in one transaction. MariaDB and MySQL commit each statement,
so a table may exist without its index, and the next process makes the index. If two processes make
the same thing at the same time, one gets an error. It is harmless if less is missing afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from sqlalchemy import Column, Index, MetaData, Table, inspect
from sqlalchemy.engine import Connection, Engine, Inspector
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateColumn
from sqlalchemy.util.concurrency import in_greenlet

from ._connections import check_blocking
from ._locking import _sqlite_busy_timeout, isolation_level
from ._settings import check_settings, schema_of
from ._tables import is_later

WAIT_S = 30.0  # for other processes that write to a SQLite file


def _is_in_greenlet() -> bool:
    try:
        return in_greenlet()
    except (ImportError, ValueError):  # SQLAlchemy's words, of 2.1 and 2.0, for: no greenlet
        return False


def create_tables(engine: Engine, metadata: MetaData) -> None:
    """Make the tables and the indexes that are missing, while other processes may do the same.

    ``metadata.create_all`` fails if another process makes a table at the same time, and does not
    add an index to an existing table. This function does both. It leaves existing tables unchanged,
    except mobync's own tables of an earlier version, which get their new columns. An index over an
    expression is made only together with its table, because not every database lists such indexes.

    Args:
        engine: the database.
        metadata: the declared tables.

    Raises:
        TypeError: ``engine`` is not an Engine, or ``metadata`` is not a MetaData.
        sqlalchemy.exc.DBAPIError: they cannot be made.
        RuntimeError: they were made, and are still missing.
        ValueError: a setting of the database would change or lose what devices send.
    """
    if not _is_in_greenlet():
        check_blocking(engine)
    wanted = (
        ("engine must be an Engine", engine, Engine),
        ("metadata must be a MetaData", metadata, MetaData),
    )
    for must, given, kind in wanted:
        if not isinstance(given, kind):
            raise TypeError(f"{must}, not {type(given).__name__}")
    ours = [table for table in metadata.sorted_tables if _is_ours(table)]
    _check(engine, [])
    missing = _missing(engine, metadata)
    while any(missing):
        failure = None
        try:
            _create(engine, metadata, missing)
        except DBAPIError as error:
            failure = error
        # Even then: a table that another process made meanwhile may have no index yet.
        before, missing = missing, _missing(engine, metadata)
        if missing.left() >= before.left():
            raise failure or RuntimeError(f"made, but still missing: {missing.names()}")
    _check(engine, ours)


def _check(engine: Engine, tables: list[Table]) -> None:
    with engine.connect() as connection:
        check_settings(connection, tables)


def _is_ours(table: Table) -> bool:
    """Whether a table is mobync's, or is declared with the same character set."""
    return "utf8mb4" in (table.kwargs.get("mysql_charset"), table.kwargs.get("mariadb_charset"))


class _Missing(NamedTuple):
    """What the database lacks; ``columns`` and ``indexes`` are those of tables that are there."""

    tables: list[Table]
    columns: list[Column[Any]]
    indexes: list[Index]

    def left(self) -> tuple[int, int]:
        """How much is missing, as numbers that fall with each thing that is made."""
        return len(self.tables), len(self.columns) + len(self.indexes)

    def names(self) -> str:
        names = [table.name for table in self.tables] + [column.name for column in self.columns]
        names += [str(index.name) for index in self.indexes]
        return ", ".join(map(str, names))


def _missing(engine: Engine, metadata: MetaData) -> _Missing:
    found = inspect(engine)
    missing = _Missing([], [], [])
    for table in metadata.sorted_tables:
        schema = schema_of(table, engine)
        if found.has_table(table.name, schema):
            missing.columns.extend(_missing_columns(found, table, schema))
            missing.indexes.extend(_missing_indexes(found, table, schema))
        else:
            missing.tables.append(table)
    return missing


def _missing_columns(found: Inspector, table: Table, schema: str | None) -> list[Column[Any]]:
    later = [column for column in table.columns if is_later(column)]
    there = {each["name"] for each in found.get_columns(table.name, schema)} if later else ()
    return [column for column in later if column.name not in there]


def _missing_indexes(found: Inspector, table: Table, schema: str | None) -> list[Index]:
    of_columns = [
        index
        for index in table.indexes
        if all(isinstance(part, Column) for part in index.expressions)
    ]
    if not of_columns:
        return []
    there = found.get_indexes(table.name, schema)
    names = [index["name"] for index in there]
    columns = [index["column_names"] for index in there]  # a name may have been cut short
    return [
        index
        for index in of_columns
        if index.name not in names and index.columns.keys() not in columns
    ]


def _create(engine: Engine, metadata: MetaData, missing: _Missing) -> None:
    with _transaction(engine) as connection:
        metadata.create_all(connection)
        for column in missing.columns:
            _add(connection, column)
        for index in missing.indexes:
            index.create(connection, checkfirst=True)


def _add(connection: Connection, column: Column[Any]) -> None:
    """Add a column to its table, unless it was added meanwhile."""
    schema = schema_of(column.table, connection)
    if not _missing_columns(inspect(connection), column.table, schema):
        return
    quote = connection.dialect.identifier_preparer.quote
    name = ".".join(quote(part) for part in (schema, column.table.name) if part is not None)
    declared = CreateColumn(column).compile(dialect=connection.dialect)
    connection.exec_driver_sql(f"ALTER TABLE {name} ADD COLUMN {declared}")


@contextmanager
def _transaction(engine: Engine) -> Iterator[Connection]:
    with engine.connect() as connection:
        if connection.dialect.name == "sqlite":
            with _sqlite_busy_timeout(connection, WAIT_S), connection.begin():
                _begin_immediate(connection)
                yield connection
            return
        # Whatever the engine is set to: AUTOCOMMIT makes one thing after the other.
        connection.execution_options(isolation_level=isolation_level(connection.dialect.name))
        with connection.begin():
            yield connection


def _begin_immediate(connection: Connection) -> None:
    """Take SQLite's write lock before anything is read, or what was read may be out of date."""
    driver = connection.connection.driver_connection
    if driver is not None and driver.in_transaction:  # the app has its connections begin themselves
        connection.exec_driver_sql("ROLLBACK")
    connection.exec_driver_sql("BEGIN IMMEDIATE")
