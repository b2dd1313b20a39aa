"""Rows of the log, put into the database as the JSON text that mobync prints.

SQLite and PostgreSQL read the text themselves.  To read it here, only to bind it again value by
value, takes about as long as the insert.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
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
    literal_column,
    select,
)
from sqlalchemy.dialects.postgresql import JSON
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.sql import Insert

from ..types import Diff
from ._many import execute_many
from ._model import Model

_PRINTED = re.compile(
    r'\{"id": "([^"\\]+)", "owner": "([^"\\]+)", "logical_clock": (\d+), '
    r'"utc_timestamp": \d+, "type": "[a-z]{6}", "model": "([^"\\]+)", "json_data": "'
)
_ROW, _ROWS = "mobync_row", "mobync_rows"

_NUMBERS = (Diff.LOGICAL_CLOCK, Diff.UTC_TIMESTAMP)
_PLAIN_TYPES = (String, Text, BigInteger, Integer)  # what the database reads as SQLAlchemy would

_FIRST_SQLITE_WITH_JSON = (3, 38, 0)  # before, it could be built without
_MOST_CHARACTERS = 4_000_000  # in one statement on PostgreSQL


class PrintedLog:
    """The log as a table that takes rows as mobync prints them.

    Args:
        log: where they go.
    """

    def __init__(self, log: Model) -> None:
        self._log = log
        self._inserts: dict[str, Insert | None] = {}

    def highest_clock(self, rows_json: Sequence[str], owner: Any, dialect: Dialect) -> int | None:
        """The highest clock of rows that ``insert`` can take.

        None where it cannot take them: the database reads no JSON, or a row is not as mobync
        prints it, is another owner's, or does not fit.
        """
        if self._insert(dialect) is None:
            return None
        most_id, most_model = (
            getattr(self._log.fields[field].type, "length", None) for field in (Diff.ID, Diff.MODEL)
        )
        highest = -1
        for row in rows_json:
            printed = _PRINTED.match(row)
            if printed is None or "\\u0000" in row:
                return None
            id_, row_owner, clock, model = printed.groups()
            if row_owner != owner or _is_longer(id_, most_id) or _is_longer(model, most_model):
                return None
            highest = max(highest, int(clock))
        return highest

    def insert(self, connection: Connection, rows_json: Sequence[str]) -> None:
        """Insert rows for which ``highest_clock`` gave a clock."""
        statement = self._insert(connection.dialect)
        assert statement is not None
        if connection.dialect.name == "sqlite":
            execute_many(connection, statement, [{_ROW: row} for row in rows_json])
            return
        for piece in _pieces(rows_json):
            connection.execute(statement, {_ROWS: f"[{','.join(piece)}]"})

    def _insert(self, dialect: Dialect) -> Insert | None:
        if dialect.name not in self._inserts:
            self._inserts[dialect.name] = self._make_insert(dialect)
        return self._inserts[dialect.name]

    def _make_insert(self, dialect: Dialect) -> Insert | None:
        fields, table = self._log.fields, self._log.table
        if any(type(c.type) not in _PLAIN_TYPES for c in fields.values()):
            return None
        # An INSERT of a SELECT would take a default that Python makes once for all rows.
        if any(c.default is not None for c in table.columns):
            return None
        if dialect.name == "sqlite" and dialect.loaded_dbapi.sqlite_version_info >= (
            _FIRST_SQLITE_WITH_JSON
        ):
            row = bindparam(_ROW, type_=Text())
            return insert(table).values(
                {c: func.json_extract(row, literal_column(f"'$.{f}'")) for f, c in fields.items()}
            )
        if dialect.name == "postgresql":
            rows = func.json_to_recordset(cast(bindparam(_ROWS, type_=Text()), JSON))
            members = [column(f, BigInteger() if f in _NUMBERS else Text()) for f in fields]
            read = rows.table_valued(*members, name="mobync_printed").render_derived(
                with_types=True
            )
            return insert(table).from_select(list(fields.values()), select(*read.c))
        return None


def _is_longer(text: str, most: int | None) -> bool:
    return most is not None and len(text) > most


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
