"""The foreign keys of a SQLite database that it checks only at the commit.

They are read from the database, because an app may declare them there and not in SQLAlchemy. Tables
that are not models also count if they refer to a model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, WeakSet

from sqlalchemy import Column, ColumnElement, FromClause, column, inspect, table
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.types import TypeEngine

from ._model import Model
from ._settings import schema_of

_MAY_REFER_LATE = (
    "SELECT name FROM {}sqlite_master WHERE type = 'table' AND (:all OR sql LIKE '%DEFERRED%')"
)


class Key(NamedTuple):
    """A foreign key from or to a model.

    Attributes:
        model: the model of the rows that refer; None if they have none.
        target: the model of the rows that they refer to; None if those have none.
        fields: the fields of the model that refer.
        id: the id column of the rows that refer; None if they have no model.
        table: the table of the rows that refer.
        referred: the other table, under a name of its own.
        pairs: the columns that refer, each with that of ``referred``.
        by_id: the column that refers to the target's id; None if none does.
    """

    model: Model | None
    target: Model | None
    fields: list[str]
    id: ColumnElement[Any] | None
    table: FromClause
    referred: FromClause
    pairs: list[tuple[ColumnElement[Any], ColumnElement[Any]]]
    by_id: ColumnElement[Any] | None


class SQLiteKeys:
    """The foreign keys of the models' tables, as the databases have them.

    Args:
        models: by name.
    """

    def __init__(self, models: Mapping[str, Model]) -> None:
        self._models = list(models.values())
        self._found: WeakKeyDictionary[Dialect, tuple[tuple[Any, ...], list[Key]]] = (
            WeakKeyDictionary()
        )
        self._doubted: WeakSet[Dialect] = WeakSet()
        self._has_doubts = False
        self._schemas = tuple(dict.fromkeys(m.table.schema for m in self._models))

    def late(self, connection: Connection) -> list[Key]:
        """The keys that are checked late; after a refused commit, these are all keys."""
        dialect, schemas = connection.dialect, self._schemas
        if connection.get_execution_options().get("schema_translate_map"):
            schemas = tuple(dict.fromkeys(schema_of(m.table, connection) for m in self._models))
        version = None
        if self._has_doubts and dialect in self._doubted:
            # A table may be altered, or PRAGMA defer_foreign_keys set.
            version = connection.exec_driver_sql("PRAGMA schema_version").scalar()
        state = (version, *schemas)
        known = self._found.get(dialect)
        if known is None or known[0] != state:
            keys = [key for s in schemas for key in self._read(connection, s, version is not None)]
            known = self._found[dialect] = state, keys
        return known[1]

    def doubt(self, dialect: Dialect) -> bool:
        """After a refused commit: take all keys for late, and return whether that is new."""
        is_new = dialect not in self._doubted
        self._doubted.add(dialect)
        self._has_doubts = True
        return is_new

    def _read(self, connection: Connection, schema: str | None, all_: bool) -> Iterator[Key]:
        quote = connection.dialect.identifier_preparer.quote
        statement = _MAY_REFER_LATE.format("" if schema is None else f"{quote(schema)}.")
        names = connection.exec_driver_sql(statement, {"all": all_}).scalars()
        models = {
            m.table.name.lower(): m
            for m in self._models
            if schema_of(m.table, connection) == schema
        }
        inspector = inspect(connection)
        for name in names.all():
            for found in inspector.get_foreign_keys(name, schema):
                ends = models.get(name.lower()), models.get(found["referred_table"].lower())
                if any(ends):
                    yield _key(name, found, *ends)


def _key(name: str, found: Mapping[str, Any], model: Model | None, target: Model | None) -> Key:
    named = list(zip(found["constrained_columns"], found["referred_columns"], strict=True))
    types = {mine: _type(model, mine) or _type(target, other) for mine, other in named}
    end = model or target
    assert end is not None
    schema = end.table.schema
    id_ = {} if model is None else {model.id.name: model.id.type}
    refers = table(name, *(column(*each) for each in {**types, **id_}.items()), schema=schema)
    others = [column(other, types[mine]) for mine, other in named]
    referred = table(found["referred_table"], *others, schema=schema).alias()
    by_id = [mine for mine, other in named if target and _is_same(other, target.id)]
    return Key(
        model,
        target,
        [] if model is None else _fields(model, types),
        None if model is None else refers.c[model.id.name],
        refers,
        referred,
        [(refers.c[mine], referred.c[other]) for mine, other in named],
        refers.c[by_id[0]] if by_id else None,
    )


def _is_same(name: str, column: Column[Any]) -> bool:
    return name.lower() == column.name.lower()  # to SQLite


def _type(model: Model | None, name: str) -> TypeEngine[Any] | None:
    if model is None:
        return None
    return next((each.type for each in model.table.columns if _is_same(name, each)), None)


def _fields(model: Model, names: Collection[str]) -> list[str]:
    return [f for f, each in model.fields.items() if any(_is_same(name, each) for name in names)]
