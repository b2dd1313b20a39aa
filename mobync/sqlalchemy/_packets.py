"""Rows that are too large for one statement.

MariaDB and MySQL accept no statement longer than ``max_allowed_packet``, and close the connection.
That looks like an outage, but the same row would fail at every later try too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from .._relational.rows import first_of
from ..errors import InvalidDiffError
from ._errors import OUTAGES, Kind, kind_of
from ._settings import mysql_settings

_ESCAPED = "\0\n\r\x1a\"'\\"  # each sent as two characters
_AROUND = 1024  # bytes around the values of a row, besides the statement itself


@contextmanager
def refusing_too_large(connection: Connection, begin: int) -> Iterator[None]:
    """Find the rows of a write that are too large, if the write fails because of them.

    Args:
        connection: the connection that writes them.
        begin: the place of the first of these rows in its run.

    Raises:
        InvalidDiffError: some rows are too large.
    """
    settings = mysql_settings(connection)
    try:
        yield
    except DBAPIError as error:
        places = None if settings is None else _places(error, settings.most_bytes)
        if kind_of(error) is not Kind.TOO_LARGE and not (places and kind_of(error) in OUTAGES):
            raise
        limit = "" if settings is None else f": max_allowed_packet is {settings.most_bytes} bytes"
        reason = f"is larger than the database takes at once{limit}"
        found = [InvalidDiffError(reason, begin + place) for place in places or ()]
        raise first_of(found or [InvalidDiffError(reason)]) from error


def _places(error: DBAPIError, most_bytes: int) -> list[int]:
    """Which rows of the statement are too large by themselves."""
    rows = error.params if isinstance(error.params, list | tuple) else [error.params]
    if not all(isinstance(row, Mapping | tuple) for row in rows):
        return []
    most = most_bytes - _AROUND - len(error.statement or "")
    return [place for place, row in enumerate(rows) if _sent_bytes(row) > most]


def _sent_bytes(row: Any) -> int:
    values = row.values() if isinstance(row, Mapping) else row
    return sum(map(_literal_bytes, values))


def _literal_bytes(value: Any) -> int:
    if isinstance(value, bytes):
        return len(value) + sum(value.count(letter.encode()) for letter in _ESCAPED)
    written = value if isinstance(value, str) else str(value)
    return len(written.encode()) + sum(written.count(letter) for letter in _ESCAPED)
