"""Rows of the log, put into the database as mobync prints them.

The core reads back what it printed.  SQLite gets the values; PostgreSQL gets the text and reads it
itself, which takes less than to bind it value by value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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
from sqlalchemy.dialects.postgresql import JSON
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.sql import Insert

from .. import _core
from ..types import Diff
from ._many import insert_plain
from ._model import Model
from ._values import variant_of

LogValues = tuple[str, str, int, int, str, str, str]  # in the order of the log's fields

_OWNER, _CLOCK = 1, 2  # places in it
_ROWS = "mobync_rows"

_DATABASES = ("sqlite", "postgresql")  # whose columns keep any text that is not too long
_NUMBERS = (Diff.LOGICAL_CLOCK, Diff.UTC_TIMESTAMP)
_PLAIN_TYPES = (String, Text, BigInteger, Integer)  # a value goes as it is

_MOST_CHARACTERS = 4_000_000  # in one statement on PostgreSQL


class PrintedLog:
    """The log as a table that takes rows as mobync prints them.

    Args:
        log: where they go.
    """

    def __init__(self, log: Model) -> None:
        self._log = log
        self._keys = [c.key for c in log.fields.values()]
        self._takes_plain: dict[str, bool] = {}  # by the name of the dialect

    def values(
        self, rows_json: Sequence[str], owner: Any, dialect: Dialect
    ) -> list[LogValues] | None:
        """The values of rows that ``insert`` can take.

        None where it cannot take them: a column wants its values changed, or a row is no diff of
        the seven fields alone, is another owner's, or does not fit.
        """
        if dialect.name not in self._takes_plain:
            self._takes_plain[dialect.name] = self._is_plain(dialect)
        if not self._takes_plain[dialect.name]:
            return None
        values = _core.log_values(rows_json)
        if not values or set(map(itemgetter(_OWNER), values)) != {owner}:
            return None
        for place, kept in enumerate(self._log.fields.values()):
            most = getattr(variant_of(kept.type, dialect), "length", None)
            if most is not None and max(map(len, map(itemgetter(place), values))) > most:
                return None
        return values

    def _is_plain(self, dialect: Dialect) -> bool:
        """Whether the columns take values as they are."""
        # An INSERT of a SELECT would take a default that Python makes once for all rows.
        return (
            dialect.name in _DATABASES
            and all(
                type(variant_of(c.type, dialect)) in _PLAIN_TYPES for c in self._log.fields.values()
            )
            and all(c.default is None for c in self._log.table.columns)
        )

    def insert(
        self, connection: Connection, rows_json: Sequence[str], values: Sequence[LogValues]
    ) -> None:
        """Insert rows, of which ``values`` gave the values."""
        if connection.dialect.name == "postgresql":
            for piece in _pieces(rows_json):
                connection.execute(self._insert_printed, {_ROWS: f"[{','.join(piece)}]"})
            return
        insert_plain(connection, insert(self._log.table), self._keys, values)

    @cached_property
    def _insert_printed(self) -> Insert:
        fields, table = self._log.fields, self._log.table
        rows = func.json_to_recordset(cast(bindparam(_ROWS, type_=Text()), JSON))
        members = [column(f, BigInteger() if f in _NUMBERS else Text()) for f in fields]
        read = rows.table_valued(*members, name="mobync_printed").render_derived(with_types=True)
        return insert(table).from_select(list(fields.values()), select(*read.c))


def highest_clock(values: Iterable[LogValues]) -> int:
    """The highest clock of some rows."""
    highest: int = max(map(itemgetter(_CLOCK), values))
    return highest


def _pieces(rows_json: Sequence[str]) -> Iterator[list[str]]:
    piece: list[str] = []
    characters = 0
    for row in rows_json:
        if piece and characters + len(row) > _MOST_CHARACTERS:
            yield piece
            piece, characters = [], 0
        piece.append(row)
        characters += len(row)
    yield piece
