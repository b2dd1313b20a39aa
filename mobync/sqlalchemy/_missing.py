"""Tables that were never made, which a driver complains of in words of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import Table
from sqlalchemy.exc import DBAPIError, NoSuchTableError

from ._errors import code_of

_CODES = {"42P01", 1146}


@contextmanager
def naming_missing(tables: Sequence[Table]) -> Iterator[None]:
    """Say which table is missing, and what makes it, where a statement fails for the lack of one.

    Args:
        tables: those to look for; what the app itself does with others is its own business.

    Raises:
        NoSuchTableError: one is missing.
    """
    try:
        yield
    except DBAPIError as error:
        words = str(error.orig)
        if code_of(error) not in _CODES and "no such table" not in words:
            raise
        named = [table.name for table in tables if table.name in words]
        if not named:
            raise
        raise NoSuchTableError(
            f"the database has no table {max(named, key=len)!r}: make it before the first sync, "
            "with mobync.sqlalchemy.create_tables(engine, metadata) or a migration"
        ) from error
