"""The statements on a model's table. Each touches only one owner's rows.

A run of changes is one statement with many rows of values, even if the rows have different fields.
So the number of statements does not grow with the number of diffs. Rows keep their order, which
foreign keys may need.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from inspect import signature
from itertools import chain, groupby
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
    func,
    insert,
    literal,
    null,
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
from sqlalchemy.engine import Connection, CursorResult, Dialect
from sqlalchemy.sql import ClauseElement, ColumnElement

from .._relational.values import DoesNotFit
from ..errors import InvalidDiffError
from ..types import _COMPARE, Diff, FilterType, ReadFilter
from ._many import execute_many
from ._model import VALUE, Model, Row, plain_type
from ._prepared import Prepared
from ._values import is_mysql

# Names of values in a statement, after a prefix that no column of the table has.
_ID, _OWNER, _CARRIED = "id", "owner", "carried_"

# What a statement may hold that spells out all its rows: SQLite takes 32766 values, MariaDB and
# MySQL packets of 16 MiB.
_MOST_VALUES = 30_000
_MOST_CHARACTERS = 1_000_000
_IDS_A_STATEMENT = 500

PIECE_ROWS = 1000  # of a window, in memory at once

# Types of an id whose values PostgreSQL may get as an array of texts: a column of another type, as
# CITEXT, may compare otherwise.
_TEXTS = (sql.String, sql.Text, sql.Unicode, sql.UnicodeText, sql.VARCHAR, sql.TEXT)


def same(column: ColumnElement[Any], value: ColumnElement[Any], dialect: Dialect) -> Any:
    """The condition that a column is equal to a value, character for character.

    With the default collations of MySQL and MariaDB, the ids 'a' and 'A' are equal, and so are such
    owners. Columns of other databases may have such a collation too. Then the bytes are also
    compared. The plain comparison stays, because it uses the index.
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
    """The condition that a row has the id _ID and belongs to the owner."""
    id_ = bindparam(model.prefix + _ID, type_=model.id.type)
    row: ColumnElement[bool] = same(model.id, id_, dialect)
    if model.owner is None:
        return row
    owner = bindparam(model.prefix + _OWNER, type_=model.owner.type)
    return and_(row, same(model.owner, owner, dialect))


# ---- creates ------------------------------------------------------------------------------------


def insert_rows(connection: Connection, model: Model, rows: list[Row]) -> None:
    """Insert rows in their order."""
    first = rows[0].keys()
    if len(rows) == 1:
        insert_of(model, rows[0]).execute(connection, rows[0])
        return
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


def insert_of(model: Model, row: Row) -> Prepared:
    """The insert of a row; the row is its values."""
    shape = "insert", frozenset(row)
    return model.statements.get(shape, lambda: Prepared(insert(model.table), list(row)))


def _insert_alike(connection: Connection, model: Model, rows: list[Row]) -> None:
    """Insert rows that all have the same columns."""
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
    """The row, with defaults for columns that only other rows of the run have."""
    missing = {key: fill() for key, fill in fillers.items() if fill is not None and key not in row}
    return {**row, **missing}


def _filler(column: Column[Any], dialect: Dialect) -> Callable[[], Any] | None:
    """The default of a column, as a value or an expression; None if it is not known.

    Two defaults are not known: a Python default that looks at the rest of its row, and on SQLite,
    which has no keyword DEFAULT for a single value, a value that a trigger fills in.
    """
    default: Any = column.default
    if default is None:
        return _server_filler(column, dialect)
    if isinstance(default, DatabaseSequence):
        return default.next_value
    if not default.is_callable:
        return lambda: default.arg
    if not signature(default.arg).parameters:
        return lambda: default.arg(None)  # SQLAlchemy wrapped it to take a context
    return None


def _server_filler(column: Column[Any], dialect: Dialect) -> Callable[[], Any] | None:
    default: Any = column.server_default
    if default is None:
        # For these types None is a value like any other: JSON's null, or what the app makes of it.
        is_value = isinstance(column.type, sql.JSON | sql.TypeDecorator)
        return null if is_value else lambda: None
    if dialect.name != "sqlite":
        return lambda: text("DEFAULT")
    if not isinstance(default, DefaultClause):
        return None
    argument = default.arg
    return lambda: literal(argument, sql.String()) if isinstance(argument, str) else argument


# ---- updates and deletes ------------------------------------------------------------------------


def update_rows(
    connection: Connection, model: Model, owner: Any, changes: Sequence[tuple[Any, Row]]
) -> int:
    """Set the fields of each change in its row; missing rows are ignored.

    Returns:
        How many rows were updated, counting each update of a row; -1 if the driver does not say.
    """
    changes = [(id_, change) for id_, change in changes if change]
    if len(changes) == 1:
        one, new = update_of(model, owner, *changes[0], connection.dialect)
        return one.execute(connection, new).rowcount
    carried = {key for _, change in changes for key in change}
    columns = [column for column in model.table.columns if column.key in carried]
    if not columns:
        return 0
    values: dict[Column[Any], ColumnElement[Any]] = {}
    names: dict[str, tuple[str, str]] = {}
    for number, column in enumerate(columns):
        value, carries = model.value_names[number], f"{model.prefix}{_CARRIED}{number}"
        names[column.key] = value, carries
        values[column] = bindparam(value, type_=column.type)
        if not all(column.key in change for _, change in changes):
            values[column] = case(
                (bindparam(carries, type_=Boolean()) == true(), values[column]), else_=column
            )
    nothing: Row = {model.prefix + _OWNER: owner}
    for value, carries in names.values():
        nothing |= {value: None, carries: False}
    parameters = []
    for id_, change in changes:
        row = {**nothing, model.prefix + _ID: id_}
        for key, new in change.items():
            value, carries = names[key]
            row[value] = new
            row[carries] = True
        parameters.append(row)
    own_row = _own_row(model, connection.dialect)
    statement = update(model.table).where(own_row).values(values)
    return execute_many(connection, statement, parameters).rowcount


def update_of(
    model: Model, owner: Any, id_: Any, change: Row, dialect: Dialect
) -> tuple[Prepared, Row]:
    """The update of a row by a change, which has at least one field, and its values."""
    shape = "update", dialect.name, tuple(change)
    statement = model.statements.get(shape, lambda: _update_of(model, change, dialect))
    values = dict(zip(model.value_names, change.values(), strict=False))
    values[model.prefix + _ID] = id_
    values[model.prefix + _OWNER] = owner
    return statement, values


def _update_of(model: Model, carried: Iterable[str], dialect: Dialect) -> Prepared:
    """The update of a row that sets exactly these columns."""
    columns = {column.key: column for column in model.table.columns}
    values: Any = {
        columns[key]: bindparam(name, type_=columns[key].type)
        for name, key in zip(model.value_names, carried, strict=False)
    }
    return Prepared(update(model.table).where(_own_row(model, dialect)).values(values))


def delete_rows(connection: Connection, model: Model, owner: Any, ids: Sequence[Any]) -> int:
    """Delete rows; a missing row is not an error.

    Returns:
        How many there were; -1 if the driver does not say.
    """
    dialect = connection.dialect
    if len(ids) == 1:
        statement, values = delete_of(model, owner, ids[0], dialect)
        return statement.execute(connection, values).rowcount
    # Else PyMySQL sends them one by one.  That must be where rows refer to each other in their
    # table: InnoDB needs the children to go first, within one statement too.
    at_once = isinstance(model.id.type, sql.String) and not _refers_to_itself(model.table)
    if not (is_mysql(dialect) and at_once):
        return connection.execute(
            delete(model.table).where(_own_row(model, dialect)),
            [{model.prefix + _ID: id_, model.prefix + _OWNER: owner} for id_ in ids],
        ).rowcount
    count = 0
    for begin in range(0, len(ids), _IDS_A_STATEMENT):
        piece = ids[begin : begin + _IDS_A_STATEMENT]
        count += connection.execute(
            delete(model.table).where(
                *_owned(model, owner, dialect),
                model.id.in_(piece),
                cast(model.id, LargeBinary).in_([id_.encode() for id_ in piece]),
            )
        ).rowcount
    return count


def erase_rows(connection: Connection, model: Model, owner: Any) -> int:
    """Delete all rows of an owner; return how many there were."""
    table, own = model.table, _owned(model, owner, connection.dialect)
    if is_mysql(connection.dialect):  # which checks each row by itself, and in whatever order
        for key in table.foreign_key_constraints:
            nullable = [column for column in key.columns if column.nullable]
            if key.referred_table is table and nullable:
                connection.execute(update(table).where(*own).values(dict.fromkeys(nullable)))
    return connection.execute(delete(table).where(*own)).rowcount


def delete_of(model: Model, owner: Any, id_: Any, dialect: Dialect) -> tuple[Prepared, Row]:
    """The delete of a row, and its values."""
    statement = model.statements.get(
        ("delete", dialect.name),
        lambda: Prepared(delete(model.table).where(_own_row(model, dialect))),
    )
    return statement, {model.prefix + _ID: id_, model.prefix + _OWNER: owner}


def _refers_to_itself(table: Table) -> bool:
    return any(key.referred_table is table for key in table.foreign_key_constraints)


def existing_ids(connection: Connection, model: Model, owner: Any, ids: Sequence[Any]) -> list[Any]:
    """The ids of existing rows whose key is that of a row to create, as the existing rows have
    them."""
    conditions = []
    if model.owner is not None and model.owner in set(model.table.primary_key.columns):
        conditions.append(model.owner == owner)
    return [id_ for (id_,) in _look_up(connection, model, [model.id], conditions, ids)]


# ---- reading ------------------------------------------------------------------------------------


def in_pieces(
    connection: Connection, statement: Prepared, values: Mapping[str, Any]
) -> Iterable[Sequence[Any]]:
    """The rows of a select; only a piece of them is in memory."""
    result = statement.execute(connection, values)
    return chain.from_iterable(result.partitions(PIECE_ROWS))


def encoded_values(
    model: Model, rows: Iterable[Sequence[Any]], dialect: Dialect
) -> Iterable[Sequence[Any]]:
    """Rows of :func:`rows_select` with values that can be JSON, in the order of the fields."""
    encoders = model.encoders(dialect)
    encode = [encoders.get(field) for field in model.fields]
    return map(partial(_encode, encode), rows) if any(encode) else rows


def _encode(encode: Sequence[Callable[[Any], Any] | None], row: Sequence[Any]) -> Sequence[Any]:
    return [
        value if one is None or value is None else one(value)
        for one, value in zip(encode, row, strict=True)
    ]


def read_rows(
    connection: Connection, model: Model, owner: Any, filters: Iterable[ReadFilter]
) -> list[Row]:
    """Read an owner's rows that pass all filters, as dicts that can be JSON.

    Args:
        connection: where to read.
        model: what to read.
        owner: as the owner column stores it; None if the filters say whose rows.
        filters: conditions on fields, or on the owner.
    """
    statement, values = rows_select(model, owner, filters, connection.dialect)
    result = statement.execute(connection, values)
    return _encoded(model, list(model.fields), result, connection.dialect)


def rows_select(
    model: Model, owner: Any, filters: Iterable[ReadFilter], dialect: Dialect
) -> tuple[Prepared, dict[str, Any]]:
    """The select of an owner's rows that pass all filters, and its values."""
    filters = list(filters)
    compared = tuple((f.field_name, f.filter_by, f.data is None) for f in filters)
    statement = model.statements.get(
        ("read", dialect.name, owner is not None, compared),
        lambda: Prepared(
            _select(model, list(model.fields)).where(
                *_conditions(model, owner is not None, filters, dialect)
            )
        ),
    )
    return statement, _compared_values(model, owner, filters, dialect)


def window_select(
    head: Select[Any], log: Model, owner: Any, clocks: range, dialect: Dialect
) -> tuple[Prepared, dict[str, Any]]:
    """The select of a row and, below it, of an owner's diffs between two clocks.

    A row has the columns of both; those of the other one are null.  So what is stored for a device,
    which may be long, is read once and not beside each diff.

    Args:
        head: the select of the first row.
        log: the log.
        owner: the owner as the log's column stores it.
        clocks: the clocks.
        dialect: the database.

    Returns:
        The statement, whose rows may have any order, and the values of the second part.
    """
    filters = [
        ReadFilter(Diff.LOGICAL_CLOCK, FilterType.majorOrEqual, clocks.start),
        ReadFilter(Diff.LOGICAL_CLOCK, FilterType.minor, clocks.stop),
    ]

    def make() -> Prepared:
        of_log = [_selected(column) for column in log.fields.values()]
        diffs = select(*_nulls(len(head.selected_columns)), *of_log)
        own = _conditions(log, True, filters, dialect)
        return Prepared(head.add_columns(*_nulls(len(of_log))).union_all(diffs.where(*own)))

    shape = ("window", dialect.name, len(head.selected_columns))
    return log.statements.get(shape, make), _compared_values(log, owner, filters, dialect)


def _nulls(count: int) -> list[ColumnElement[Any]]:
    return [null().label(f"mobync_null_{number}") for number in range(count)]


def _compared_values(
    model: Model, owner: Any, filters: Sequence[ReadFilter], dialect: Dialect
) -> dict[str, Any]:
    """The values of _conditions()."""
    values = {
        f"{model.prefix}{VALUE}{number}": _compared_value(model, f, dialect)
        for number, f in enumerate(filters)
        if f.data is not None
    }
    if owner is not None and model.owner is not None:
        values[model.prefix + _OWNER] = owner
    return values


def _conditions(
    model: Model, owned: bool, filters: Sequence[ReadFilter], dialect: Dialect
) -> list[Any]:
    conditions = [
        _condition(model, f, f"{model.prefix}{VALUE}{number}", dialect)
        for number, f in enumerate(filters)
    ]
    if owned and model.owner is not None:
        owner = bindparam(model.prefix + _OWNER, type_=model.owner.type)
        conditions = [same(model.owner, owner, dialect), *conditions]
    return conditions


def read_fields(
    connection: Connection, model: Model, owner: Any, ids: Sequence[str], fields: Sequence[str]
) -> list[Row]:
    """Read some fields of an owner's rows with these ids, and the id; an unfit id has no row."""
    names = [Diff.ID, *(field for field in dict.fromkeys(fields) if field != Diff.ID)]
    keys = []
    for id_ in ids:
        with suppress(InvalidDiffError):
            keys.append(model.read_id({Diff.ID: id_}, connection.dialect))
    conditions = [] if owner is None else _owned(model, owner, connection.dialect)
    columns = [_selected(model.fields[name]) for name in names]
    found = _look_up(connection, model, columns, conditions, keys)
    return _as_rows(model, names, found, connection.dialect)


def read_page(
    connection: Connection, model: Model, owner: Any, after: str | None, size: int
) -> list[Row]:
    """Read at most ``size`` of an owner's rows in the order of their ids: those after one."""
    names = list(model.fields)
    statement = _select(model, names).where(*_owned(model, owner, connection.dialect))
    if after is not None:
        statement = statement.where(model.id > model.read_id({Diff.ID: after}, connection.dialect))
    return _fetch(connection, model, names, statement.order_by(model.id).limit(size))


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


def _look_up(
    connection: Connection,
    model: Model,
    columns: Sequence[ColumnElement[Any]],
    conditions: Sequence[Any],
    ids: Iterable[Any],
) -> list[Any]:
    """The values of columns in the rows with some ids that meet conditions.

    Each id is looked up alone. If a table was never analyzed, SQLite and PostgreSQL think that an
    owner has few rows, and for a list of ids they would read all of them.
    """
    asked = list(dict.fromkeys(ids))
    if not asked:
        return []
    kind = connection.dialect.name
    process = model.id.type.dialect_impl(connection.dialect).bind_processor(connection.dialect)
    kept = asked if process is None else [process(id_) for id_ in asked]
    if kind == "sqlite" and all(isinstance(id_, str) for id_ in kept):
        by_id = _select_by_json(model, columns, conditions)
        rows = connection.execute(by_id, {model.prefix + _ID: json.dumps(kept)})
        return [row[1:] for row in rows.all() if row[0] is not None]
    if kind == "postgresql" and type(model.id.type) in _TEXTS:
        by_id = _select_by_array(model, columns, conditions)
        return list(connection.execute(by_id, {model.prefix + _ID: asked}).all())
    found: list[Any] = []
    for begin in range(0, len(asked), _IDS_A_STATEMENT):
        piece = model.id.in_(asked[begin : begin + _IDS_A_STATEMENT])
        found += connection.execute(select(*columns).where(*conditions, piece)).all()
    return found


def _select_by_json(
    model: Model, columns: Sequence[ColumnElement[Any]], conditions: Sequence[Any]
) -> Select[Any]:
    """A select of the id and of columns; for an id without a row, all are null.

    It is an outer join so that SQLite begins with the ids.
    """
    asked = func.json_each(bindparam(model.prefix + _ID, type_=Text()))
    ids = asked.table_valued("value", name=model.prefix + "ids")
    with_rows = ids.outerjoin(model.table, and_(model.id == ids.c.value, *conditions))
    return select(model.id, *columns).select_from(with_rows)


def _select_by_array(
    model: Model, columns: Sequence[ColumnElement[Any]], conditions: Sequence[Any]
) -> Select[Any]:
    asked = func.unnest(bindparam(model.prefix + _ID, type_=postgresql.ARRAY(Text())))
    ids = asked.table_valued("asked", name=model.prefix + "ids").render_derived()
    own = select(*columns).where(model.id == ids.c.asked, *conditions)
    row = own.limit(1).lateral(model.prefix + "row")  # the limit keeps it a look-up for each
    return select(*row.c).select_from(ids.join(row, true()))


def _owned(model: Model, owner: Any, dialect: Dialect) -> list[Any]:
    if model.owner is None:
        return []
    value = bindparam(model.prefix + _OWNER, owner, model.owner.type)
    return [same(model.owner, value, dialect)]


def _select(model: Model, names: Sequence[str]) -> Select[Any]:
    return select(*(_selected(model.fields[name]) for name in names))


def _fetch(
    connection: Connection, model: Model, names: Sequence[str], statement: Select[Any]
) -> list[Row]:
    return _encoded(model, names, connection.execute(statement), connection.dialect)


def _encoded(
    model: Model, names: Sequence[str], result: CursorResult[Any], dialect: Dialect
) -> list[Row]:
    return _as_rows(model, names, result.all(), dialect)


def _as_rows(
    model: Model, names: Sequence[str], found: Sequence[Any], dialect: Dialect
) -> list[Row]:
    encoders = model.encoders(dialect)
    rows = [dict(zip(names, row, strict=True)) for row in found]
    for field in encoders.keys() & set(names):
        for row in rows:
            if row[field] is not None:
                row[field] = encoders[field](row[field])
    return rows


def _selected(column: Column[Any]) -> ColumnElement[Any]:
    if isinstance(column.type, sql.Numeric) and not isinstance(column.type, sql.Float):
        return type_coerce(column, sql.NullType())  # as the driver gives it: nothing is lost
    return column


def _condition(model: Model, f: ReadFilter, name: str, dialect: Dialect) -> Any:
    """The condition of a filter, with its value under a name."""
    column = model.owner if _is_of_owner(model, f) else model.fields.get(f.field_name)
    if column is None:
        raise ValueError(f"model {model.name!r} has no field {f.field_name!r:.100}")
    if f.data is None:
        return column.is_(None) if f.filter_by is FilterType.equal else false()
    value = bindparam(name, type_=column.type)
    if f.filter_by is FilterType.equal:
        return same(column, value, dialect)
    return _COMPARE[f.filter_by](column, value)


def _is_of_owner(model: Model, f: ReadFilter) -> bool:
    return model.owner is not None and f.field_name == model.owner_field


def _compared_value(model: Model, f: ReadFilter, dialect: Dialect) -> Any:
    """What to compare with: a JSON value as devices send it, or the column's own kind of value."""
    if _is_of_owner(model, f):
        return model.owner_value(f.data, dialect)
    if not isinstance(f.data, str | int | float | list | dict):
        return f.data
    try:
        return model.codec(model.fields[f.field_name], dialect).decode(f.data)
    except DoesNotFit as misfit:
        raise ValueError(f"filter on {f.field_name!r}: {f.data!r:.100} {misfit}") from None
