"""The meaning of SQLAlchemy's errors for a sync."""

from __future__ import annotations

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionError

from .._relational.database_errors import (
    OUTAGES,
    Kind,
    code_of_original,
    is_busy,
    kind_of_code,
    sqlite_code_of,
)

__all__ = [
    "LOST_PREPARED",
    "OUTAGES",
    "Kind",
    "code_of",
    "is_busy",
    "is_sqlite_busy",
    "kind_of",
]

# A bug in the setup: a pooler gave the session of a prepared statement to another client.
LOST_PREPARED = ("26000", "42P05")


def kind_of(error: BaseException) -> Kind:
    """The meaning of an error of SQLAlchemy; BUG for any other error."""
    if isinstance(error, NoConnectionError):
        return Kind.UNAVAILABLE  # all connections of the pool wait for the database
    if not isinstance(error, DBAPIError):
        return Kind.BUG
    kind = kind_of_code(error.orig)
    if kind is not None:
        return kind
    has_code = code_of(error) is not None or sqlite_code_of(error.orig) is not None
    return _kind_by_class(error, has_code)


def _kind_by_class(error: DBAPIError, has_code: bool) -> Kind:
    if error.connection_invalidated:
        return Kind.UNAVAILABLE
    if isinstance(error, DataError):
        return Kind.MISFIT
    if isinstance(error, IntegrityError):
        return Kind.VIOLATION
    # The drivers' errors have no code if a connection cannot be made or is lost.
    lost = isinstance(error, OperationalError | InterfaceError) and error.statement is None
    return Kind.UNAVAILABLE if lost and not has_code else Kind.BUG


def code_of(error: DBAPIError) -> str | int | None:
    """PostgreSQL's SQLSTATE or the error number of MySQL and MariaDB."""
    return code_of_original(error.orig)


def is_sqlite_busy(error: BaseException) -> bool:
    """Whether somebody else had locked the SQLite file; in a transaction that may be at once."""
    return isinstance(error, DBAPIError) and is_busy(error.orig)
