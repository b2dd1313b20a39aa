"""A table as mobync sees it: the fields that a device may send, and the values that a row must
have.

A field has the name of its column; in a mapped class, the name of the attribute. The owner column
is not a field: the server fills it in, and a device never does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any, NoReturn, TypeVar

from sqlalchemy import Column, Table
from sqlalchemy import inspect as inspect_mapped
from sqlalchemy import types as sql
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import NoReferenceError
from sqlalchemy.orm import Mapper

from .._plain import check_plain
from .._relational.filled import checked_fields
from .._relational.rows import located, read_object
from .._relational.values import Codec, DoesNotFit
from .._relational.write_order import References
from ..errors import InvalidDiffError
from ..types import FIELD_TIMES, LOG_FIELDS, Diff
from ._prepared import Kept
from ._values import codec_of, is_json_as_read

T = TypeVar("T")

Row = dict[str, Any]

ID = Diff.ID
VALUE = "value_"  # how the names of values begin, after the prefix


class Model:
    """A table with the fields that devices know.

    Attributes:
        name: its name in diffs.
        table: the table.
        fields: the column of each field, including ``id``.
        owner: the owner column, which every statement has in its condition; None if shared.
        owner_field: the name of the owner column.
        where: the beginning of an error message about a row.
        server_fields: the fields that devices may not write, because the app says so.
        prefix: a text with which no column's name begins.
        value_names: names for values, as many as the table has columns.
        statements: the statements on the table that were made before.
    """

    def __init__(
        self,
        name: str,
        table: Table,
        fields: Mapping[str, Column[Any]],
        owner: Column[Any] | None,
        owner_field: str,
        where: str,
        server_fields: frozenset[str] = frozenset(),
    ) -> None:
        self.name = name
        self.table = table
        self.fields = dict(fields)
        self.id = self.fields[ID]
        self.owner = owner
        self.owner_field = owner_field
        self.where = where
        self.server_fields = server_fields
        self.prefix = "mobync_"
        while any(column.key.startswith(self.prefix) for column in table.columns):
            self.prefix += "_"
        self.value_names = [f"{self.prefix}{VALUE}{place}" for place in range(len(table.columns))]
        self._required = {
            column.key: field
            for field, column in self.fields.items()
            if column is not owner and field not in server_fields and is_required(column)
        }
        self._keys = {f: column.key for f, column in self.fields.items() if column.key != f}
        self.statements = Kept()
        self._known: dict[tuple[str, str], tuple[Column[Any], Codec]] = {}
        self._codecs: dict[tuple[str, str], Codec] = {}
        self._encoders: dict[str, dict[str, Callable[[Any], Any]]] = {}

    # ---- rows that devices send ----------------------------------------------------------------

    def new_rows(self, rows_json: Sequence[str], owner: Any, dialect: Dialect) -> list[Row]:
        """The rows of creates, by column keys; missing columns get their defaults.

        Raises:
            InvalidDiffError: a field is unknown, does not fit, or is missing; the error names the
                rows.
        """
        return located(self._new_rows, rows_json, owner, dialect)

    @property
    def generated_fields(self) -> frozenset[str]:
        """The fields that only the database writes."""
        return frozenset(f for f, column in self.fields.items() if is_generated(column))

    def _new_rows(self, rows_json: Sequence[str], owner: Any, dialect: Dialect) -> list[Row]:
        rows = self._read_rows(rows_json, dialect)
        for key, field in self._required.items():
            if not all(key in row for row in rows):
                self._refuse(f"{field!r} is missing")
        if self.owner is not None:
            key = self.owner.key
            if any(row.setdefault(key, owner) != owner for row in rows):
                raise ValueError(f"a row of another owner for {self.table.name!r}")
        return rows

    def changes(
        self, rows_json: Sequence[str], owner: Any, dialect: Dialect
    ) -> list[tuple[Any, Row]]:
        """The id and the other fields of updates of an owner's rows, by column keys.

        Raises:
            InvalidDiffError: a field is unknown or does not fit; the error names the rows.
        """
        return located(self._changes, rows_json, owner, dialect)

    def _changes(
        self, rows_json: Sequence[str], owner: Any, dialect: Dialect
    ) -> list[tuple[Any, Row]]:
        rows = self._read_rows(rows_json, dialect)
        if self.owner is not None:
            key = self.owner.key
            for row in rows:
                if row.pop(key, owner) != owner:
                    self._refuse(f"{self.owner_field!r} never changes")
        return [(row.pop(self.id.key), row) for row in rows]

    def row_ids(self, rows_json: Sequence[str], dialect: Dialect) -> list[Any]:
        """The ids in deletes; their other members do not matter.

        Raises:
            InvalidDiffError: an id does not fit; the error names the rows.
        """
        return located(self._row_ids, rows_json, dialect)

    def _row_ids(self, rows_json: Sequence[str], dialect: Dialect) -> list[Any]:
        return [self.read_id(read_object(row_json, self.where), dialect) for row_json in rows_json]

    def read_id(self, members: Mapping[str, Any], dialect: Dialect) -> Any:
        """The id of a row of JSON values, as its column stores it."""
        row = {ID: members[ID]}
        self._decode_row(row, dialect)
        return row[ID]

    def _read_rows(self, rows_json: Sequence[str], dialect: Dialect) -> list[Row]:
        """Rows by column keys, read column by column, because most values need no conversion."""
        rows = [read_object(data_json, self.where) for data_json in rows_json]
        if len(rows) == 1:
            self._decode_row(rows[0], dialect)
        else:
            for field in dict.fromkeys(chain.from_iterable(rows)):
                self._decode_field(field, rows, dialect)
        if self._keys:
            return [{self._keys.get(f, f): value for f, value in row.items()} for row in rows]
        return rows

    def _decode_row(self, row: Row, dialect: Dialect) -> None:
        """Convert a row's values into those that the driver takes."""
        for field, value in row.items():
            known = self._known.get((field, dialect.name))
            column, codec = known or self._get_to_know(field, dialect)
            if value is None:
                self._check_nullable(field, column)
                continue
            try:
                row[field] = codec.decode(value)
            except DoesNotFit as misfit:
                self._refuse(f"{field!r} {misfit}")

    def _decode_field(self, field: str, rows: list[Row], dialect: Dialect) -> None:
        """Do what _decode_row() does with one field, in all rows that have it."""
        column, codec = self._known.get((field, dialect.name)) or self._get_to_know(field, dialect)
        values = [row[field] for row in rows if field in row]
        if None in values:
            self._check_nullable(field, column)
            values = [value for value in values if value is not None]
        if not values or codec.keeps(values):
            return
        try:
            for row in rows:
                if row.get(field) is not None:
                    row[field] = codec.decode(row[field])
        except DoesNotFit as misfit:
            self._refuse(f"{field!r} {misfit}")

    def _get_to_know(self, field: str, dialect: Dialect) -> tuple[Column[Any], Codec]:
        column = self._writable(field)
        known = self._known[field, dialect.name] = column, self.codec(column, dialect)
        return known

    def _check_nullable(self, field: str, column: Column[Any]) -> None:
        if not column.nullable:
            self._refuse(f"{field!r} must not be null")

    def _writable(self, field: str) -> Column[Any]:
        column = self.fields.get(field)
        if column is None:
            if self.owner is not None and field == self.owner_field:
                self._refuse(f"{field!r} is set by the server")
            self._refuse(f"model {self.name!r} has no field {field!r:.100}")
        if is_generated(column):
            self._refuse(f"{field!r} is made by the database")
        return column

    def _refuse(self, reason: str) -> NoReturn:
        raise InvalidDiffError(f"{self.where}{reason}") from None

    # ---- rows that the database gives ----------------------------------------------------------

    def encoders(self, dialect: Dialect) -> dict[str, Callable[[Any], Any]]:
        """For each field, the function that converts a value of its column, unless null, for JSON.

        Fields whose values need no conversion are not included.
        """
        encoders = self._encoders.get(dialect.name)
        if encoders is None:
            encoders = self._encoders[dialect.name] = {
                field: self.codec(column, dialect).encode
                for field, column in self.fields.items()
                if not is_json_as_read(column.type, self.codec(column, dialect))
            }
        return encoders

    # ---- columns and their codecs --------------------------------------------------------------

    def codec(self, column: Column[Any], dialect: Dialect) -> Codec:
        """The codec of one of the columns on a database."""
        key = dialect.name, column.key
        codec = self._codecs.get(key)
        if codec is None:
            codec = codec_of(column.type, dialect)
            if codec is None:
                raise TypeError(f"{column} cannot be synced on {dialect.name}")
            self._codecs[key] = codec
        return codec

    def owner_value(self, owner_id: str, dialect: Dialect) -> Any:
        """The authenticated owner as the owner column stores it.

        Raises:
            ValueError: the column cannot store it, or cannot distinguish it from another owner.
        """
        if self.owner is None:
            return None
        value: Any = owner_id
        if isinstance(self.owner.type, sql.Integer) and str(_int(owner_id)) == owner_id:
            value = int(owner_id)
        try:
            return self.codec(self.owner, dialect).decode(value)
        except DoesNotFit as misfit:
            raise ValueError(f"owner_id {owner_id!r:.100}: {self.owner} {misfit}") from None


def _int(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def is_generated(column: Column[Any]) -> bool:
    """Whether only the database makes its values."""
    always = column.identity is not None and bool(column.identity.always)
    return column.computed is not None or always


def is_required(column: Column[Any]) -> bool:
    """Whether a new row must have a value for it."""
    return not (
        column.nullable
        or column.default is not None
        or column.server_default is not None
        or column.identity is not None
        or column is column.table.autoincrement_column
    )


# ---- what an app hands in ----------------------------------------------------------------------


def describe(
    name: str,
    source: Any,
    owner_field: str,
    shared: bool,
    dialect: Dialect,
    *,
    hidden: Collection[str] = (),
    server: Collection[str] = (),
) -> Model:
    """Describe a table or mapped class that an app wants to sync.

    Args:
        name: its name in diffs.
        source: the table or class.
        owner_field: the name of the owner column.
        shared: whether it has no owner column.
        dialect: the dialect of the database.
        hidden: the names of fields that devices do not see.
        server: the names of fields that devices may not write.

    Raises:
        TypeError: ``source`` is neither.
        ValueError: it cannot be synced; the message says why.
    """
    table, fields = table_and_fields(name, source)
    owner = fields.pop(owner_field, None)
    if shared and owner is not None:
        raise ValueError(f"table {table.name!r} has a column {owner_field!r}: it is not shared")
    if not shared and owner is None:
        raise ValueError(
            f"table {table.name!r} has no owner column {owner_field!r}, so devices could write "
            f"each other's rows; if it is shared on purpose, pass shared=({name!r},)"
        )
    _check_key(table, fields.get(ID), owner)
    _check_owner(owner)
    _check_defaults(table)
    for hidden_field in checked_fields("hidden_columns", name, hidden, fields):
        del fields[hidden_field]
    server_fields = checked_fields("server_columns", name, server, fields)
    unknown = {f for f, column in fields.items() if codec_of(column.type, dialect) is None}
    for column in table.columns:
        field = next((f for f, c in fields.items() if c is column), None)
        if (field is None or field in unknown) and column is not owner and is_required(column):
            raise ValueError(
                f"{column} cannot be synced (type {column.type!r}): "
                "make it nullable or give it a default"
            )
    known = {f: column for f, column in fields.items() if f not in unknown}
    server_fields &= known.keys()
    return Model(name, table, known, owner, owner_field, "json_data: ", server_fields)


def describe_log(source: Any, with_field_times: bool = False) -> Model:
    """Describe the log.

    Args:
        source: the table, or a class that is mapped to it.
        with_field_times: whether the column ``field_times`` is a field, if it is declared.

    Raises:
        TypeError: ``source`` is neither a table nor a mapped class.
        ValueError: a column is missing.
    """
    table, fields = table_and_fields("diffs", source)
    missing = [name for name in LOG_FIELDS if name not in fields]
    if missing:
        raise ValueError(f"the log {table.name!r} has no column {', '.join(map(repr, missing))}")
    names = [*LOG_FIELDS, FIELD_TIMES] if with_field_times and FIELD_TIMES in fields else LOG_FIELDS
    fields = {name: fields[name] for name in names}
    return Model(table.name, table, fields, fields[Diff.OWNER], Diff.OWNER, "")


def references(models: Mapping[str, Model]) -> References:
    """For each model, the fields that refer to the id of a row, and the model of that row."""
    names = {model.id: name for name, model in models.items()}
    found: References = {}
    for name, model in models.items():
        for field, column in model.fields.items():
            for key in column.foreign_keys:
                with suppress(NoReferenceError):  # a table that this metadata does not have
                    if key.column in names:
                        found.setdefault(name, []).append((field, names[key.column]))
    return found


def table_and_fields(name: str, source: Any) -> tuple[Table, dict[str, Column[Any]]]:
    """The table that an app named by a Table or a mapped class, and its columns by field name."""
    if isinstance(source, Table):
        return source, {column.name: column for column in source.columns}
    mapper = inspect_mapped(source, raiseerr=False)
    if not isinstance(mapper, Mapper):
        raise TypeError(f"model {name!r} must be a Table or a mapped class, not {source!r:.100}")
    table = mapper.local_table
    if mapper.inherits is not None or mapper.polymorphic_on is not None:
        raise ValueError(f"model {name!r}: {source!r} is one of several classes; name its Table")
    if not isinstance(table, Table):
        raise ValueError(f"model {name!r}: {source!r} is not mapped to one table")
    return table, dict(_mapped_columns(mapper, table.columns))


def _mapped_columns(
    mapper: Mapper[Any], columns: Iterable[Column[Any]]
) -> Iterable[tuple[str, Column[Any]]]:
    own = {id(column) for column in columns}
    for attribute in mapper.column_attrs:
        column = attribute.columns[0]
        if isinstance(column, Column) and id(column) in own:
            yield attribute.key, column


def _check_key(table: Table, id_: Column[Any] | None, owner: Column[Any] | None) -> None:
    key = set(table.primary_key.columns)
    if id_ is None or id_ not in key or not key <= {id_, owner}:
        raise ValueError(
            f"table {table.name!r}: the primary key must be 'id', or 'id' and the owner column"
        )
    if not isinstance(plain_type(id_.type), (sql.String, sql.Uuid)) or isinstance(
        id_.type, sql.Enum
    ):
        raise ValueError(
            f"table {table.name!r}: 'id' must be a String or Uuid, since devices make ids offline"
        )


def _check_owner(owner: Column[Any] | None) -> None:
    if owner is not None and not isinstance(
        plain_type(owner.type), (sql.String, sql.Integer, sql.Uuid)
    ):
        raise ValueError(f"{owner}: the owner column must be a String, Integer or Uuid")


def _check_defaults(table: Table) -> None:
    for column in table.columns:
        for name, default in (("default", column.default), ("onupdate", column.onupdate)):
            made_by = getattr(default, "arg", None)  # as SQLAlchemy wraps it
            check_plain(f"the {name} of {column}", getattr(made_by, "__wrapped__", made_by))


def plain_type(type_: sql.TypeEngine[Any]) -> sql.TypeEngine[Any]:
    """The type in which a TypeDecorator stores its values."""
    return type_.impl_instance if isinstance(type_, sql.TypeDecorator) else type_
