"""Makes tables where several processes start at once and each of them may be killed.

SQLite and PostgreSQL make all in one transaction.  MariaDB and MySQL commit each statement, so a
table may be there without its index, which is for the next one who looks to make.  Two who make
the same at the same time get an error that says no more than that; what tells it from others is
that afterwards less is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from sqlalchemy import Column, Index, MetaData, Table, inspect
from sqlalchemy.engine import Connection, Engine, Inspector
from sqlalchemy.exc import DBAPIError

from ._locking import _sqlite_busy_timeout, isolation_level

WAIT_S = 30.0  # for other processes that write to a SQLite file


def create_tables(engine: Engine, metadata: MetaData) -> None:
    """Make the tables and the indexes that are missing, while other processes may do the same.

    ``metadata.create_all`` fails where another process makes a table at the same time, and makes
    no index of a table that is there already.  What is there is left as it is.  An index over an
    expression is made with its table only: not every database tells of those that it has.

    Args:
        engine: where to make them.
        metadata: where they are declared.

    Raises:
        sqlalchemy.exc.DBAPIError: they cannot be made.
    """
    missing = _missing(engine, metadata)
    while any(missing):
        failure = None
        try:
            _create(engine, metadata, missing.indexes)
        except DBAPIError as error:
            failure = error
        # Even then: a table that another process made meanwhile may have no index yet.
        before, missing = missing, _missing(engine, metadata)
        if failure is not None and missing.left() >= before.left():
            raise failure


class _Missing(NamedTuple):
    """What the database has not; ``indexes`` are those of tables that are there."""

    tables: list[Table]
    indexes: list[Index]

    def left(self) -> tuple[int, int]:
        """Falls with all that is made; a new table may come without its indexes."""
        return len(self.tables), len(self.indexes)


def _missing(engine: Engine, metadata: MetaData) -> _Missing:
    found = inspect(engine)
    missing = _Missing([], [])
    for table in metadata.sorted_tables:
        if found.has_table(table.name, table.schema):
            missing.indexes.extend(_missing_indexes(found, table))
        else:
            missing.tables.append(table)
    return missing


def _missing_indexes(found: Inspector, table: Table) -> list[Index]:
    of_columns = [
        index
        for index in table.indexes
        if all(isinstance(part, Column) for part in index.expressions)
    ]
    if not of_columns:
        return []
    there = found.get_indexes(table.name, table.schema)
    names = [index["name"] for index in there]
    columns = [index["column_names"] for index in there]  # a name may have been cut short
    return [
        index
        for index in of_columns
        if index.name not in names and index.columns.keys() not in columns
    ]


def _create(engine: Engine, metadata: MetaData, indexes: list[Index]) -> None:
    with _transaction(engine) as connection:
        metadata.create_all(connection)
        for index in indexes:
            index.create(connection, checkfirst=True)


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
