"""An owner's lock: the row of its head, held until the transaction ends.

PostgreSQL, MariaDB and MySQL lock that one row.  SQLite can only lock the whole file, so there
syncs of different owners wait for each other too.

The order matters.  The head is locked before anything is read, so that what the last holder
committed is seen: at READ COMMITTED every statement sees what was committed before it; on MariaDB
and MySQL at REPEATABLE READ the snapshot is taken by the first plain read, which comes after the
lock; on PostgreSQL at REPEATABLE READ and SERIALIZABLE the lock itself fails when the head was
changed since the snapshot, and the transaction is begun again.  The head is looked for before it
is inserted, because an insert that meets a row locks it in a way that two waiters cannot both
turn into an exclusive lock: they would deadlock.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from sqlalchemy import Table, func, select, update
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DataError, DBAPIError

DIALECTS = ("sqlite", "postgresql", "mysql", "mariadb")

_WAL_TRIED = "mobync_wal_tried"


def isolation_level(dialect_name: str) -> str | None:
    """The isolation level to sync at, if the app does not choose one."""
    return None if dialect_name == "sqlite" else "READ COMMITTED"


def prepare(connection: Connection) -> None:
    """Put a SQLite file into WAL mode, in which readers and a writer do not wait for each other.

    The mode stays with the file.  Where it cannot be changed now, because somebody else uses the
    file, syncs are as safe, only slower.
    """
    if connection.dialect.name != "sqlite" or _WAL_TRIED in connection.info:
        return
    database = _driver_connection(connection)
    if database.in_transaction:
        return
    connection.info[_WAL_TRIED] = True
    with (
        _sqlite_busy_timeout(connection, 0),
        contextlib.suppress(connection.dialect.loaded_dbapi.OperationalError),
    ):
        database.execute("PRAGMA journal_mode = WAL").close()


def lock_owner(connection: Connection, heads: Table, log: Table, owner_id: str) -> int:
    """Lock an owner until the transaction ends.

    Args:
        connection: in a transaction that has not read anything yet.
        heads: the table of the owners' heads.
        log: the log, from which a head that is missing is made.
        owner_id: whom to lock.

    Returns:
        The highest clock of the owner's log, -1 if it is empty.

    Raises:
        sqlalchemy.exc.DBAPIError: among others when the wait was too long: is_lock_timeout(),
            is_sqlite_busy().
    """
    if connection.dialect.name == "sqlite":
        _begin_immediate(connection, heads, owner_id)
    clock = _lock_head(connection, heads, owner_id)
    if clock is None:
        _make_head(connection, heads, log, owner_id)
        clock = _lock_head(connection, heads, owner_id)
    if clock is None:
        raise RuntimeError(f"{heads.name!r} does not keep the head of {owner_id!r}")
    return clock


def read_head(connection: Connection, heads: Table, owner_id: str) -> int | None:
    """The highest clock of an owner's log, as this transaction sees it; None without a head."""
    clock: int | None = connection.scalar(_head(heads, owner_id))
    return clock


def _head(heads: Table, owner_id: str) -> Any:
    return select(heads.c.logical_clock).where(heads.c.owner == owner_id)


def _lock_head(connection: Connection, heads: Table, owner_id: str) -> int | None:
    clock: int | None = connection.scalar(_head(heads, owner_id).with_for_update())
    return clock


def _make_head(connection: Connection, heads: Table, log: Table, owner_id: str) -> None:
    """Insert an owner's head, unless somebody else does so at the same time."""
    highest = connection.scalar(
        select(func.max(log.c.logical_clock)).where(log.c.owner == owner_id)
    )
    row = {"owner": owner_id, "logical_clock": -1 if highest is None else highest}
    if connection.dialect.name == "sqlite":
        connection.execute(sqlite.insert(heads).values(row).on_conflict_do_nothing())
    elif connection.dialect.name == "postgresql":
        connection.execute(postgresql.insert(heads).values(row).on_conflict_do_nothing())
    else:  # IGNORE would leave a shared lock on the row that it met
        connection.execute(
            mysql.insert(heads).values(row).on_duplicate_key_update(owner=heads.c.owner)
        )


def set_head(connection: Connection, heads: Table, owner_id: str, clock: int) -> None:
    """Note the highest clock of the owner whose lock is held."""
    connection.execute(update(heads).where(heads.c.owner == owner_id).values(logical_clock=clock))


# ---- how long to wait ---------------------------------------------------------------------------


def waiting(connection: Connection, timeout_s: float) -> AbstractContextManager[None]:
    """Bound each wait for a lock, the owner's or that of a row, to some seconds.

    What was set before is set again in the end; on PostgreSQL that is when the transaction ends.
    """
    return _WAITING[connection.dialect.name](connection, timeout_s)


@contextmanager
def _postgresql_lock_timeout(connection: Connection, timeout_s: float) -> Iterator[None]:
    setting = f"{max(1, math.ceil(timeout_s * 1000))}ms"
    connection.execute(select(func.set_config("lock_timeout", setting, True)))
    yield


@contextmanager
def _mysql_lock_timeout(connection: Connection, timeout_s: float) -> Iterator[None]:
    connection.exec_driver_sql(
        "SET @mobync_lock_wait = @@SESSION.innodb_lock_wait_timeout, "
        f"SESSION innodb_lock_wait_timeout = {max(1, math.ceil(timeout_s))}"
    )
    try:
        yield
    finally:
        if not connection.invalidated:
            connection.exec_driver_sql("SET SESSION innodb_lock_wait_timeout = @mobync_lock_wait")


@contextmanager
def _sqlite_busy_timeout(connection: Connection, timeout_s: float) -> Iterator[None]:
    database = _driver_connection(connection)
    before = database.execute("PRAGMA busy_timeout").fetchone()[0]
    database.execute(f"PRAGMA busy_timeout = {math.ceil(timeout_s * 1000)}").close()
    try:
        yield
    finally:
        if not connection.invalidated:
            database.execute(f"PRAGMA busy_timeout = {before}").close()


_WAITING = {
    "sqlite": _sqlite_busy_timeout,
    "postgresql": _postgresql_lock_timeout,
    "mysql": _mysql_lock_timeout,
    "mariadb": _mysql_lock_timeout,
}


def _begin_immediate(connection: Connection, heads: Table, owner_id: str) -> None:
    """Take SQLite's write lock before anything is read."""
    if _driver_connection(connection).in_transaction:
        # The app begins its transactions itself, by SQLAlchemy's recipe or autocommit=False.
        # A write as the first statement waits for the lock just as BEGIN IMMEDIATE does.
        connection.execute(
            update(heads).where(heads.c.owner == owner_id).values(owner=heads.c.owner)
        )
    else:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def begin_reading(connection: Connection) -> None:
    """See to it that a transaction which only reads has begun on SQLite, whose driver waits for
    a write before it begins one.
    """
    if connection.dialect.name == "sqlite" and not _driver_connection(connection).in_transaction:
        connection.exec_driver_sql("BEGIN")


def _driver_connection(connection: Connection) -> Any:
    return connection.connection.driver_connection


# ---- what went wrong ----------------------------------------------------------------------------

_LOCK_TIMEOUTS = {"55P03", 1205}
# Deadlocks and serialization failures.  MySQL's 1020 is a row that the snapshot has older.
_TRANSIENT = {"40001", "40P01", 1213, 1020}
_SQLITE_BUSY, _SQLITE_LOCKED = 5, 6
_MYSQL_DUPLICATE, _POSTGRESQL_DUPLICATE = 1062, "23505"
_MYSQL_MISFITS = {1292, 1366}  # a moment that is in no time zone, a letter in no character set


def is_lock_timeout(error: BaseException) -> bool:
    """Whether PostgreSQL, MariaDB or MySQL gave up waiting for a lock."""
    return isinstance(error, DBAPIError) and _code(error) in _LOCK_TIMEOUTS


def is_transient(error: BaseException) -> bool:
    """Whether the same transaction may succeed when begun again."""
    return isinstance(error, DBAPIError) and (_code(error) in _TRANSIENT or is_sqlite_busy(error))


def does_not_fit(error: DBAPIError) -> bool:
    """Whether a column cannot keep a value, as only the database could know."""
    code = _code(error)
    of_postgresql = isinstance(code, str) and code.startswith("22")
    return isinstance(error, DataError) or of_postgresql or code in _MYSQL_MISFITS


def is_duplicate_key(error: DBAPIError, table: Table) -> bool:
    """Whether the database names the primary key of a table as what is there already."""
    words = str(error.orig)
    key = table.primary_key
    if _code(error) == _MYSQL_DUPLICATE:
        return words.rstrip("\"')").endswith("PRIMARY")
    if _code(error) == _POSTGRESQL_DUPLICATE:
        return f'"{key.name or table.name + "_pkey"}"' in words
    columns = ", ".join(f"{table.name}.{column.name}" for column in key.columns)
    return words == f"UNIQUE constraint failed: {columns}"


def _code(error: DBAPIError) -> str | int | None:
    """PostgreSQL's SQLSTATE or the error number of MySQL and MariaDB."""
    original: Any = error.orig
    first = original.args[0] if original is not None and original.args else None
    if isinstance(first, int):
        return first
    if isinstance(first, dict):  # pg8000's
        return first.get("C")
    for name in ("errno", "sqlstate", "pgcode"):
        code = getattr(original, name, None)
        if isinstance(code, str | int):
            return code
    return None


def is_sqlite_busy(error: DBAPIError) -> bool:
    """Whether somebody else had locked the SQLite file; in a transaction that may be at once."""
    original: Any = error.orig
    code = getattr(original, "sqlite_errorcode", None)  # since Python 3.11
    if code is not None:
        return code & 0xFF in (_SQLITE_BUSY, _SQLITE_LOCKED)
    return type(original).__module__.startswith("sqlite3") and " is locked" in str(original)
