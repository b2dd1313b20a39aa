"""Rows that are inserted only if another table has a row, in one statement.

What the server stores beside the log is written after the sync that it is about.  Meanwhile the
owner may have been erased, and then nothing must be stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import (
    BindParameter,
    Column,
    ColumnElement,
    Insert,
    Table,
    bindparam,
    insert,
    select,
)

_PREFIX = "new_"  # SQLAlchemy keeps the names of columns for itself


def insert_from(table: Table, *conditions: ColumnElement[bool]) -> Insert:
    """Insert a row for each row of other tables that fulfils the conditions.

    Args:
        table: gets the row, whose values are given by :func:`values_for`.
        conditions: on columns of another table; at most one row of it fulfils them.
    """
    columns = list(table.columns)
    values = select(*map(value_of, columns)).where(*conditions)
    return insert(table).from_select(columns, values, include_defaults=False)


def value_of(column: Column[Any]) -> BindParameter[Any]:
    """The value that a row gets in a column."""
    return bindparam(_PREFIX + column.name, type_=column.type)


def values_for(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row, by its columns, as the parameters of :func:`insert_from`."""
    return {_PREFIX + name: value for name, value in row.items()}
