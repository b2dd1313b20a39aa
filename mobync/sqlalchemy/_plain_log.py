"""Writes rows of the log from mobync's values, without SQLAlchemy's conversions.

PostgreSQL gets many rows as one JSON text, which takes less time than to bind their values one by
one. Other databases get the values.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from operator import itemgetter
from typing import Any

from sqlalchemy import (
    BigInteger,
    Integer,
    String,
    Text,
    bindparam,
    cast,
    column,
    func,
    insert,
    select,
)
from sqlalchemy.dialects.mysql import LONGTEXT
from sqlalchemy.dialects.postgresql import JSON
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.sql import Insert

from ..types import Diff, LogRow
from ._many import insert_plain
from ._model import Model
from ._prepared import Prepared
from ._values import variant_of

_ID, _CLOCK, _JSON_DATA = 0, 2, 6  # places in a LogRow
_ROWS = "mobync_rows"

_NUMBERS = (Diff.LOGICAL_CLOCK, Diff.UTC_TIMESTAMP)
_PLAIN_TYPES = (String, BigInteger, Integer)  # a value goes as it is
_LONG_TYPES = {"sqlite": Text, "postgresql": Text}  # a MySQL TEXT ends at 64 KiB

_MOST_CHARACTERS = 4_000_000  # of json_data, in one statement on PostgreSQL


class PlainLog:
    """The log as a table whose columns need no conversion of values.

    Args:
        log: the table.
    """

    def __init__(self, log: Model) -> None:
        self._log = log
        self._keys = [c.key for c in log.fields.values()]
        self._insert_one = Prepared(insert(log.table), self._keys)
        self._takes_plain: dict[str, bool] = {}  # by the name of the dialect
        self._limits: dict[str, list[tuple[int, int]]] = {}

    def takes(self, rows: Sequence[LogRow], dialect: Dialect) -> bool:
        """Whether ``insert`` can take these rows.

        It cannot if a column converts its values, or if a value does not fit.
        """
        if dialect.name not in self._takes_plain:
            self._takes_plain[dialect.name] = self._is_plain(dialect)
        if not self._takes_plain[dialect.name]:
            return False
        for place, most in self._most_characters(dialect):
            for row in rows:
                if len(row[place]) > most:  # type: ignore[arg-type]
                    return False
        return True

    def _most_characters(self, dialect: Dialect) -> list[tuple[int, int]]:
        """How long the values at some places may be."""
        limits = self._limits.get(dialect.name)
        if limits is None:
            lengths = (
                getattr(variant_of(kept.type, dialect), "length", None)
                for kept in self._log.fields.values()
            )
            limits = [(place, most) for place, most in enumerate(lengths) if most is not None]
            self._limits[dialect.name] = limits
        return limits

    def _is_plain(self, dialect: Dialect) -> bool:
        """Whether the columns take values as they are."""
        long_type = _LONG_TYPES.get(dialect.name, LONGTEXT)
        # An INSERT of a SELECT would take a default that Python makes once for all rows.
        return all(
            type(variant_of(c.type, dialect)) in (*_PLAIN_TYPES, long_type)
            for c in self._log.fields.values()
        ) and all(c.default is None for c in self._log.table.columns)

    def insert(self, connection: Connection, rows: Sequence[LogRow]) -> None:
        """Insert rows that ``takes`` has accepted."""
        if len(rows) == 1:
            statement, values = self.insert_of(rows[0])
            statement.execute(connection, values)
            return
        if connection.dialect.name == "postgresql":
            for piece in _pieces(rows):
                connection.execute(self._insert_as_json, {_ROWS: self._as_json(piece)})
            return
        insert_plain(connection, insert(self._log.table), self._keys, rows)

    def insert_of(self, row: LogRow) -> tuple[Prepared, dict[str, Any]]:
        """The statement that inserts a row, and its values."""
        return self._insert_one, dict(zip(self._keys, row, strict=True))

    def _as_json(self, rows: Sequence[LogRow]) -> str:
        names = list(self._log.fields)
        return json.dumps([dict(zip(names, row, strict=True)) for row in rows], ensure_ascii=False)

    @cached_property
    def _insert_as_json(self) -> Insert:
        fields, table = self._log.fields, self._log.table
        rows = func.json_to_recordset(cast(bindparam(_ROWS, type_=Text()), JSON))
        members = [column(f, BigInteger() if f in _NUMBERS else Text()) for f in fields]
        read = rows.table_valued(*members, name="mobync_read").render_derived(with_types=True)
        return insert(table).from_select(list(fields.values()), select(*read.c))


def ids(rows: Sequence[LogRow]) -> list[str]:
    """The ids of some rows."""
    return list(map(itemgetter(_ID), rows))


def highest_clock(rows: Sequence[LogRow]) -> int:
    """The highest clock of some rows."""
    highest: int = max(map(itemgetter(_CLOCK), rows))
    return highest


def _pieces(rows: Sequence[LogRow]) -> Iterator[Sequence[LogRow]]:
    begin = characters = 0
    for end, row in enumerate(rows):
        size = len(str(row[_JSON_DATA]))
        if end > begin and characters + size > _MOST_CHARACTERS:
            yield rows[begin:end]
            begin, characters = end, 0
        characters += size
    yield rows[begin:]
