"""Finds out that a table was never made, from the different errors of the drivers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import Table
from sqlalchemy.exc import DBAPIError, NoSuchTableError

from ._errors import code_of

_CODES = {"42P01", 1146}


@contextmanager
def naming_missing(tables: Sequence[Table]) -> Iterator[None]:
    """If a statement fails because a table is missing, name the table and say what makes it.

    Args:
        tables: mobync's tables; errors about other tables pass unchanged.

    Raises:
        NoSuchTableError: one is missing.
    """
    try:
        yield
    except DBAPIError as error:
        missing = missing_table(error, tables)
        if missing is None:
            raise
        raise missing from error


def missing_table(error: DBAPIError, tables: Sequence[Table]) -> NoSuchTableError | None:
    """The error that naming_missing() raises instead of this one; None if no table is missing."""
    words = str(error.orig)
    if code_of(error) not in _CODES and "no such table" not in words:
        return None
    named = [table.name for table in tables if table.name in words]
    if not named:
        return None
    return NoSuchTableError(
        f"the database has no table {max(named, key=len)!r}: make it before the first sync, "
        "with mobync.sqlalchemy.create_tables(engine, metadata) or a migration. Its metadata knows "
        "mobync's tables from diffs_table(metadata), or once the Synchronizer is made"
    )
