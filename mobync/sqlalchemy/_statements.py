"""The statements on a model's table, each confined to one owner's rows.

A run of changes is one statement with many rows of values, whatever fields each row carries, so
that the number of statements does not grow with the number of diffs.  Rows keep their order, which
foreign keys may need.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from inspect import signature
from itertools import groupby
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    DefaultClause,
    LargeBinary,
    Select,
    Table,
    Text,
    and_,
    bindparam,
    case,
    cast,
    delete,
    exists,
    false,
    insert,
    literal,
    select,
    text,
    true,
    type_coerce,
    update,
)
from sqlalchemy import (
    Sequence as DatabaseSequence,
)
from sqlalchemy import types as sql
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.sql import ClauseElement, ColumnElement

from ..types import Diff, FilterType, ReadFilter
from ._many import execute_many
from ._model import Model, Row, plain_type
from ._values import DoesNotFit, is_mysql

# Names of values in a statement; no column of a table should be called so.
_ID, _OWNER, _CARRIED, _VALUE = "mobync_id", "mobync_owner", "mobync_carried_", "mobync_value_"

# What a statement may hold that spells out all its rows: SQLite takes 32766 values, MariaDB and
# MySQL packets of 16 MiB.
_MOST_VALUES = 30_000
_MOST_CHARACTERS = 1_000_000
_IDS_A_STATEMENT = 500


def same(column: ColumnElement[Any], value: ColumnElement[Any], dialect: Dialect) -> Any:
    """The condition that a column is equal to a value, character for character.

    By the default collations of MySQL and MariaDB the ids 'a' and 'A' are equal, and so would be
    two owners; a column of the other databases may have such a collation too.  There the bytes
    are compared as well.  The plain comparison stays: it has the index.
    """
    equal = column == value
    type_ = plain_type(column.type)
    if not isinstance(type_, sql.String):
        return equal
    if is_mysql(dialect):
        return and_(equal, cast(column, LargeBinary) == cast(value, LargeBinary))
    if dialect.name == "sqlite":  # whose collations reflection does not tell
        return and_(equal, column.collate("BINARY") == value)
    if type_.collation is not None or isinstance(type_, postgresql.CITEXT):
        return and_(equal, cast(column, Text).collate("C") == cast(value, Text))
    return equal


def _own_row(model: Model, dialect: Dialect) -> ColumnElement[bool]:
    """The condition that a row is the one of _ID, and the owner's."""
    row: ColumnElement[bool] = same(model.id, bindparam(_ID, type_=model.id.type), dialect)
    if model.owner is None:
        return row
    return and_(row, same(model.owner, bindparam(_OWNER, type_=model.owner.type), dialect))


# ---- creates ------------------------------------------------------------------------------------


def insert_rows(connection: Connection, model: Model, rows: list[Row]) -> None:
    """Insert rows in their order."""
    first = rows[0].keys()
    if all(row.keys() == first for row in rows):
        execute_many(connection, insert(model.table), rows)
        return
    carried = {key for row in rows for key in row}
    fillers = {
        column.key: _filler(column, connection.dialect)
        for column in model.table.columns
        if column.key in carried
    }
    filled = [_fill(row, fillers) for row in rows]
    for _, run in groupby(filled, key=frozenset):
        _insert_alike(connection, model, list(run))


def _insert_alike(connection: Connection, model: Model, rows: list[Row]) -> None:
    """Insert rows that all carry the same columns."""
    statement = insert(model.table)
    if not any(isinstance(value, ClauseElement) for row in rows for value in row.values()):
        execute_many(connection, statement, rows)
        return
    for piece in _pieces(rows, len(model.table.columns)):
        connection.execute(statement.values(piece), execution_options={"compiled_cache": None})


def _pieces(rows: list[Row], width: int) -> Iterator[list[Row]]:
    piece: list[Row] = []
    values = characters = 0
    for row in rows:
        size = sum(len(value) for value in row.values() if isinstance(value, str | bytes))
        if piece and (values + width > _MOST_VALUES or characters + size > _MOST_CHARACTERS):
            yield piece
            piece, values, characters = [], 0, 0
        piece.append(row)
        values += width
        characters += size
    yield piece


def _fill(row: Row, fillers: dict[str, Callable[[], Any] | None]) -> Row:
    """The row with what other rows of the run carry and it does not."""
    missing = {key: fill() for key, fill in fillers.items() if fill is not None and key not in row}
    return {**row, **missing}


def _filler(column: Column[Any], dialect: Dialect) -> Callable[[], Any] | None:
    """What makes the default of a column, a value or an expression; None if that is not known.

    Unknown are, to us, a Python default that looks at the rest of its row and, on SQLite, which
    has no keyword DEFAULT for a value among others, what a trigger fills in.
    """
    default: Any = column.default
    if default is None:
        return _server_filler(column.server_default, dialect)
    if isinstance(default, DatabaseSequence):
        return default.next_value
    if not default.is_callable:
        return lambda: default.arg
    if not signature(default.arg).parameters:
        return lambda: default.arg(None)  # SQLAlchemy wrapped it to take a context
    return None


def _server_filler(default: Any, dialect: Dialect) -> Callable[[], Any] | None:
    if default is None:
        return lambda: None
    if dialect.name != "sqlite":
        return lambda: text("DEFAULT")
    if not isinstance(default, DefaultClause):
        return None
    argument = default.arg
    return lambda: literal(argument, sql.String()) if isinstance(argument, str) else argument


# ---- updates and deletes ------------------------------------------------------------------------


def update_rows(
    connection: Connection, model: Model, owner: Any, changes: Sequence[tuple[Any, Row]]
) -> None:
    """Set in each row the fields that its change carries; a row that is not there stays away."""
    changes = [(id_, change) for id_, change in changes if change]
    carried = {key for _, change in changes for key in change}
    columns = [column for column in model.table.columns if column.key in carried]
    if not columns:
        return
    values: dict[Column[Any], ColumnElement[Any]] = {}
    names: dict[str, tuple[str, str]] = {}
    for number, column in enumerate(columns):
        value, carries = names[column.key] = f"{_VALUE}{number}", f"{_CARRIED}{number}"
        values[column] = bindparam(value, type_=column.type)
        if not all(column.key in change for _, change in changes):
            values[column] = case(
                (bindparam(carries, type_=Boolean()) == true(), values[column]), else_=column
            )
    nothing: Row = {_OWNER: owner}
    for value, carries in names.values():
        nothing |= {value: None, carries: False}
    parameters = []
    for id_, change in changes:
        row = {**nothing, _ID: id_}
        for key, new in change.items():
            value, carries = names[key]
            row[value] = new
            row[carries] = True
        parameters.append(row)
    own_row = _own_row(model, connection.dialect)
    execute_many(connection, update(model.table).where(own_row).values(values), parameters)


def delete_rows(connection: Connection, model: Model, owner: Any, ids: Sequence[Any]) -> None:
    """Delete rows; one that is not there is no error."""
    dialect = connection.dialect
    # Else PyMySQL sends them one by one.  That must be where rows refer to each other in their
    # table: InnoDB needs the children to go first, within one statement too.
    at_once = isinstance(model.id.type, sql.String) and not _refers_to_itself(model.table)
    if not (is_mysql(dialect) and at_once):
        connection.execute(
            delete(model.table).where(_own_row(model, dialect)),
            [{_ID: id_, _OWNER: owner} for id_ in ids],
        )
        return
    for begin in range(0, len(ids), _IDS_A_STATEMENT):
        piece = ids[begin : begin + _IDS_A_STATEMENT]
        connection.execute(
            delete(model.table).where(
                *_owned(model, owner, dialect),
                model.id.in_(piece),
                cast(model.id, LargeBinary).in_([id_.encode() for id_ in piece]),
            )
        )


def _refers_to_itself(table: Table) -> bool:
    return any(key.referred_table is table for key in table.foreign_key_constraints)


def existing_ids(connection: Connection, model: Model, owner: Any, ids: Sequence[Any]) -> list[Any]:
    """The ids, as the rows have them, of rows whose key is that of a row that was to be created."""
    keys = set(model.table.primary_key.columns)
    found: list[Any] = []
    for begin in range(0, len(ids), _IDS_A_STATEMENT):
        statement = select(model.id).where(model.id.in_(ids[begin : begin + _IDS_A_STATEMENT]))
        if model.owner in keys:
            statement = statement.where(model.owner == owner)
        found += connection.scalars(statement)
    return found


# ---- reading ------------------------------------------------------------------------------------


def read_rows(
    connection: Connection, model: Model, owner: Any, filters: Iterable[ReadFilter]
) -> list[Row]:
    """Read an owner's rows that pass all filters, as dicts that can be JSON.

    Args:
        connection: where to read.
        model: what to read.
        owner: as the owner column keeps it; None where the filters say whose rows.
        filters: conditions on fields, or on the owner.
    """
    conditions = [_condition(model, f, connection.dialect) for f in filters]
    if owner is not None:
        conditions = [*_owned(model, owner, connection.dialect), *conditions]
    return _fetch(connection, model, _select(model).where(*conditions))


def read_page(
    connection: Connection, model: Model, owner: Any, after: str | None, size: int
) -> list[Row]:
    """Read at most ``size`` of an owner's rows in the order of their ids: those after one."""
    statement = _select(model).where(*_owned(model, owner, connection.dialect))
    if after is not None:
        statement = statement.where(model.id > model.read_id({Diff.ID: after}, connection.dialect))
    return _fetch(connection, model, statement.order_by(model.id).limit(size))


def read_owners(
    reading: Callable[[], AbstractContextManager[Connection]], heads: Table, log: Table, size: int
) -> Iterator[str]:
    """Read who has a head, in order, at most ``size`` at once; then who has a log and no head."""
    statement = select(heads.c.owner).order_by(heads.c.owner).limit(size)
    after: str | None = None
    while True:
        page = statement if after is None else statement.where(heads.c.owner > after)
        with reading() as connection:
            owners = connection.scalars(page).all()
        yield from owners
        if len(owners) < size:
            break
        after = owners[-1]
    headless = ~exists().where(heads.c.owner == log.c.owner)  # a log from before there were heads
    with reading() as connection:
        without_head = connection.scalars(select(log.c.owner).where(headless).distinct()).all()
    yield from without_head


def _owned(model: Model, owner: Any, dialect: Dialect) -> list[Any]:
    if model.owner is None:
        return []
    return [same(model.owner, bindparam(_OWNER, owner, model.owner.type), dialect)]


def _select(model: Model) -> Select[Any]:
    return select(*(_selected(column) for column in model.fields.values()))


def _fetch(connection: Connection, model: Model, statement: Select[Any]) -> list[Row]:
    names, encoders = list(model.fields), model.encoders(connection.dialect)
    rows = [dict(zip(names, row, strict=True)) for row in connection.execute(statement).all()]
    for field, encode in encoders.items():
        for row in rows:
            if row[field] is not None:
                row[field] = encode(row[field])
    return rows


def _selected(column: Column[Any]) -> ColumnElement[Any]:
    if isinstance(column.type, sql.Numeric) and not isinstance(column.type, sql.Float):
        return type_coerce(column, sql.NullType())  # as the driver gives it: nothing is lost
    return column


_COMPARE: dict[FilterType, Callable[[Any, Any], Any]] = {
    FilterType.major: operator.gt,
    FilterType.minor: operator.lt,
    FilterType.majorOrEqual: operator.ge,
    FilterType.minorOrEqual: operator.le,
}


def _condition(model: Model, f: ReadFilter, dialect: Dialect) -> Any:
    is_owner = model.owner is not None and f.field_name == model.owner_field
    column = model.owner if is_owner else model.fields.get(f.field_name)
    if column is None:
        raise ValueError(f"model {model.name!r} has no field {f.field_name!r:.100}")
    if f.data is None:
        return column.is_(None) if f.filter_by is FilterType.equal else false()
    value_of = _owner_value if is_owner else _filter_value
    value = bindparam(None, value_of(model, f, dialect), column.type)
    if f.filter_by is FilterType.equal:
        return same(column, value, dialect)
    return _COMPARE[f.filter_by](column, value)


def _owner_value(model: Model, f: ReadFilter, dialect: Dialect) -> Any:
    return model.owner_value(f.data, dialect)


def _filter_value(model: Model, f: ReadFilter, dialect: Dialect) -> Any:
    """What to compare with: a JSON value as devices send it, or the column's own kind of value."""
    if not isinstance(f.data, str | int | float | list | dict):
        return f.data
    try:
        return model.codec(model.fields[f.field_name], dialect).decode(f.data)
    except DoesNotFit as misfit:
        raise ValueError(f"filter on {f.field_name!r}: {f.data!r:.100} {misfit}") from None
