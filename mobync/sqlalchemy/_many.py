"""One statement for many rows, passed to SQLite's driver without SQLAlchemy's work for each row.

For each row of an executemany, SQLAlchemy collects the values by name, looks for those that expand,
and puts them in order. This takes about as long as SQLite's insert. If a statement does not need
this work, the driver gets the rows as tuples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy.engine import Connection, CursorResult, Dialect
from sqlalchemy.sql import Delete, Insert, Update
from sqlalchemy.sql.compiler import SQLCompiler

from ._model import Row

_FEWEST_ROWS = 100  # for which it is worth to compile the statement, which SQLAlchemy has cached


def execute_many(
    connection: Connection, statement: Insert | Update | Delete, rows: Sequence[Row]
) -> CursorResult[Any]:
    """Execute a statement once for each row; all rows have the same keys."""
    compiled = _compile_for_tuples(connection, statement, list(rows[0]), len(rows))
    if compiled is None:
        return connection.execute(statement, list(rows))
    return connection.exec_driver_sql(str(compiled), _tuples(compiled, rows, connection.dialect))


def insert_plain(
    connection: Connection, statement: Insert, keys: list[str], rows: Sequence[tuple[Any, ...]]
) -> None:
    """Insert rows whose values are in the order of the keys, and of the driver's types."""
    compiled = _compile_for_tuples(connection, statement, keys, len(rows))
    if compiled is None:
        connection.execute(statement, [dict(zip(keys, row, strict=True)) for row in rows])
        return
    places = [keys.index(name) for name in _names(compiled)]
    if places != list(range(len(keys))):
        rows = [tuple(row[place] for place in places) for row in rows]
    connection.exec_driver_sql(str(compiled), list(rows))


def _compile_for_tuples(
    connection: Connection, statement: Insert | Update | Delete, keys: list[str], count: int
) -> SQLCompiler | None:
    """The statement, if the driver can get its rows as tuples, and enough rows to make it worth it.

    It cannot if the statement needs more than the keys, such as a default that Python makes, or
    values that become part of its text.
    """
    if count < _FEWEST_ROWS or not _takes_tuples(connection):
        return None
    compiled = statement.compile(
        dialect=connection.dialect,
        column_keys=keys if isinstance(statement, Insert) else None,
        for_executemany=True,
    )
    assert isinstance(compiled, SQLCompiler)
    names = compiled.positiontup
    if not names or not set(keys) >= set(names):
        return None
    if compiled.literal_execute_params or compiled.post_compile_params:
        return None
    return compiled


def _names(compiled: SQLCompiler) -> list[str]:
    """The names of a row's values in the statement's order."""
    assert compiled.positiontup is not None
    return compiled.positiontup


def _takes_tuples(connection: Connection) -> bool:
    """Whether nothing on the way to the driver would be left out."""
    dialect, events = connection.dialect, connection.dispatch
    return (
        dialect.name == "sqlite"
        and dialect.paramstyle == "qmark"
        and not connection.get_execution_options().get("schema_translate_map")
        and not events.before_execute
        and not events.after_execute
    )


def _tuples(compiled: SQLCompiler, rows: Sequence[Row], dialect: Dialect) -> list[tuple[Any, ...]]:
    columns = []
    for name in _names(compiled):
        column: Any = [row[name] for row in rows]
        to_driver = compiled.binds[name].type.dialect_impl(dialect).bind_processor(dialect)
        columns.append(column if to_driver is None else map(to_driver, column))
    return list(zip(*columns, strict=True))
