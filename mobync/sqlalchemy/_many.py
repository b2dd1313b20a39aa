"""One statement for many rows, handed to SQLite's driver without SQLAlchemy's look at each row.

What SQLAlchemy does for each row of an executemany (collect its values by name, look for those that
expand, put them in order) takes about as long as SQLite's insert.  Where a statement has nothing
that needs it, the driver gets the rows as tuples.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.sql import Insert, Update
from sqlalchemy.sql.compiler import SQLCompiler

from ._model import Row

_FEWEST_ROWS = 100  # for which it is worth to compile the statement, which SQLAlchemy has cached


def execute_many(connection: Connection, statement: Insert | Update, rows: Sequence[Row]) -> None:
    """Execute a statement once for each row; all rows carry the same keys."""
    if len(rows) >= _FEWEST_ROWS and _takes_tuples(connection):
        keys = list(rows[0])
        compiled = _compile(connection, statement, keys)
        names = _names_in_order(compiled, keys)
        if names is not None:
            values = _tuples(compiled, names, rows, connection.dialect)
            connection.exec_driver_sql(str(compiled), values)
            return
    connection.execute(statement, list(rows))


def insert_plain(
    connection: Connection, statement: Insert, keys: Sequence[str], rows: Sequence[tuple[Any, ...]]
) -> None:
    """Insert rows whose values stand in the order of the keys, and are what the driver takes."""
    if len(rows) >= _FEWEST_ROWS and _takes_tuples(connection):
        compiled = _compile(connection, statement, keys)
        names = _names_in_order(compiled, keys)
        if names is not None:
            in_order = itemgetter(*map(keys.index, names))
            values = rows if names == keys else list(map(in_order, rows))
            connection.exec_driver_sql(str(compiled), values)
            return
    connection.execute(statement, [dict(zip(keys, row, strict=True)) for row in rows])


def _compile(
    connection: Connection, statement: Insert | Update, keys: Sequence[str]
) -> SQLCompiler:
    compiled = statement.compile(
        dialect=connection.dialect,
        column_keys=list(keys) if isinstance(statement, Insert) else None,
        for_executemany=True,
    )
    assert isinstance(compiled, SQLCompiler)
    return compiled


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


def _names_in_order(compiled: SQLCompiler, keys: Sequence[str]) -> list[str] | None:
    """The names of a row's values in the statement's order.

    None if the statement takes more than the row has, as a default that Python makes, or values
    that become part of its text.
    """
    names = compiled.positiontup
    if not names or not set(keys) >= set(names):
        return None
    if compiled.literal_execute_params or compiled.post_compile_params:
        return None
    return names


def _tuples(
    compiled: SQLCompiler, names: Sequence[str], rows: Sequence[Row], dialect: Dialect
) -> list[tuple[Any, ...]]:
    columns = []
    for name in names:
        column: Any = [row[name] for row in rows]
        to_driver = compiled.binds[name].type.dialect_impl(dialect).bind_processor(dialect)
        columns.append(column if to_driver is None else map(to_driver, column))
    return list(zip(*columns, strict=True))
