"""Sends several statements at once, in the way of each driver."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.pool import NullPool

from ._errors import is_busy
from ._locking import SET_ISOLATION_LEVEL, SET_ONE_MOMENT, statement_for_level
from ._prepared import Prepared
from ._settings import mysql_settings
from ._tasks import awaited

T = TypeVar("T")

Text = tuple[str, Sequence[Any]]
"""A statement with a mark for each value, and the values."""

_LEAST_PACKET_BYTES = 1_000_000  # of MariaDB; that many characters are sure to fit

_OWN_BUSY_TIMEOUT = "mobync_own_busy_timeout"

_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
_END: dict[bool, list[Text]] = {True: [("COMMIT", ())], False: []}
_FOUND = "mobync_found"


class Talk:
    """Sends several statements at once to a driver.

    After an error, the transaction stays open.

    Args:
        connection: the connection of the driver; it has no transaction yet.
        timeout_s: seconds to wait for a lock, at each statement.

    Attributes:
        can_read: whether there are :meth:`read` and :meth:`select`.
    """

    can_read = True

    def __init__(self, connection: Connection, timeout_s: float) -> None:
        self.connection = connection
        self.driver: Any = self._driver()
        self.timeout_s = timeout_s

    def _driver(self) -> Any:
        return self.connection.connection.driver_connection

    def text(self, statement: Prepared, values: Mapping[str, Any]) -> Text | None:
        """A statement in the form of the driver; None if SQLAlchemy must execute it."""
        return statement.text(self.connection.dialect, values)

    def is_possible(self) -> bool:
        """Whether the connection allows this."""
        raise NotImplementedError

    def begin(self, lock: Text, select: Text | None) -> tuple[Any, Sequence[Any]]:
        """Begin, lock, and read what else is wanted.

        Returns:
            The row of the lock's statement, None if there is none; and those of the other.
        """
        raise NotImplementedError

    def read(self, statement: Text) -> Sequence[Any]:
        """Execute a select in its own transaction; return its rows."""
        return self.select(statement)

    def select(self, statement: Text) -> Sequence[Any]:
        """Execute a select in the transaction that was begun, if one was; return its rows."""
        raise NotImplementedError

    def write(self, statements: Sequence[Text], end: bool) -> None:
        """Execute statements, and commit if these are the last ones."""
        raise NotImplementedError

    def roll_back(self) -> None:
        """Roll back the transaction, if there is one."""
        self.driver.rollback()

    def after(self) -> None:
        """Restore the settings of the driver's connection at the end."""


class _OnSQLite(Talk):
    def __init__(self, connection: Connection, timeout_s: float) -> None:
        super().__init__(connection, timeout_s)
        self._wanted_ms = math.ceil(timeout_s * 1000)
        self._own_ms = 0  # what the app's connection waits, once it is known

    def is_possible(self) -> bool:
        # Else the app begins transactions itself, by SQLAlchemy's recipe or autocommit=False.
        return not self.driver.in_transaction

    def begin(self, lock: Text, select: Text | None) -> tuple[Any, Sequence[Any]]:
        info = self.connection.info
        if _OWN_BUSY_TIMEOUT not in info:
            info[_OWN_BUSY_TIMEOUT] = self.driver.execute("PRAGMA busy_timeout").fetchone()[0]
        self._own_ms = info[_OWN_BUSY_TIMEOUT]
        if self._own_ms > self._wanted_ms:
            self._set_busy_timeout(self._wanted_ms)
        cursor = self.driver.cursor()
        self._patiently(cursor.execute, "BEGIN IMMEDIATE")
        row = cursor.execute(*lock).fetchone()
        return row, [] if select is None else cursor.execute(*select).fetchall()

    def select(self, statement: Text) -> Sequence[Any]:
        rows: Sequence[Any] = self.driver.execute(*statement).fetchall()
        return rows

    def write(self, statements: Sequence[Text], end: bool) -> None:
        execute = self.driver.cursor().execute
        for statement in statements:
            execute(*statement)
        if end:
            self._patiently(execute, "COMMIT")

    def roll_back(self) -> None:
        if self.driver.in_transaction:
            self.driver.execute("ROLLBACK")

    def after(self) -> None:
        if self._own_ms > self._wanted_ms:
            self._set_busy_timeout(self._own_ms)

    def _patiently(self, execute: Callable[[str], object], statement: str) -> None:
        """Wait for a lock as long as wanted; change the setting only if it is shorter."""
        try:
            execute(statement)
        except self.connection.dialect.loaded_dbapi.OperationalError as error:
            left_ms = self._wanted_ms - self._own_ms
            if not is_busy(error) or left_ms <= 0:
                raise
            self._set_busy_timeout(left_ms)
            try:
                execute(statement)
            finally:
                self._set_busy_timeout(self._own_ms)

    def _set_busy_timeout(self, timeout_ms: int) -> None:
        self.driver.execute(f"PRAGMA busy_timeout = {timeout_ms}").close()


class _OnPostgreSQL(Talk):
    """psycopg's connection without a cursor, because a cursor takes longer than all the rest.

    Values become part of the text, as psycopg quotes them.
    """

    def is_possible(self) -> bool:
        driver, psycopg = self.driver, _psycopg()
        if psycopg is None or type(driver) not in psycopg.plain:
            return False
        # Not idle: the app has begun something, or the connection is lost.
        is_as_made = (
            driver.pgconn.transaction_status == psycopg.idle
            and driver.cursor_factory in psycopg.plain
            and hasattr(driver, "lock")
        )
        level = driver.isolation_level
        if (
            not is_as_made
            or (level is not None and level.name != "READ_COMMITTED")
            or driver.autocommit
            or driver.read_only
            or driver.deferrable
            or driver.info.encoding != "utf-8"
        ):
            return False
        self._psycopg = psycopg
        self._values = psycopg.transformer(driver)
        return True

    def begin(self, lock: Text, select: Text | None) -> tuple[Any, Sequence[Any]]:
        text, values = _joined(lock, select)
        _, locked, *others = self._execute(f"{_BEGIN}; {text}", values)
        rows = self._rows(locked)
        return (rows[0] if rows else None), (self._rows(others[0]) if others else [])

    def select(self, statement: Text) -> Sequence[Any]:
        return self._rows(self._execute(*statement)[0])

    def write(self, statements: Sequence[Text], end: bool) -> None:
        self._execute(*_joined(*statements, *_END[end]))

    def _rows(self, result: Any) -> list[Any]:
        self._values.set_pgresult(result)
        rows: list[Any] = self._values.load_rows(0, result.ntuples, tuple)
        return rows

    def _execute(self, text: str, values: Sequence[Any]) -> list[Any]:
        """Execute one or more statements; return their results."""
        quoted = self._values.as_literal
        sent = text.encode() % tuple([quoted(value) for value in values])  # refuses U+0000
        results = self._send(sent)
        if not results:
            raise self._psycopg.errors.InternalError("the server sent no result")
        for result in results:
            if result.status not in self._psycopg.is_fine:
                raise self._psycopg.errors.error_from_result(result, encoding="utf-8")
        return results

    def _send(self, sent: bytes) -> list[Any]:
        driver = self.driver
        with driver.lock:
            driver.pgconn.send_query(sent)
            results: list[Any] = driver.wait(self._psycopg.execute(driver.pgconn))
        return results


class _OnAsyncPostgreSQL(_OnPostgreSQL):
    """psycopg, awaited."""

    def roll_back(self) -> None:
        awaited(self.driver.rollback())

    def _send(self, sent: bytes) -> list[Any]:
        return awaited(self._awaited(sent))

    async def _awaited(self, sent: bytes) -> list[Any]:
        driver = self.driver
        async with driver.lock:
            driver.pgconn.send_query(sent)
            results: list[Any] = await driver.wait(self._psycopg.execute(driver.pgconn))
        return results


class _Psycopg(NamedTuple):
    """What is used of psycopg.

    Attributes:
        transformer: makes what quotes values and reads those of results.
        execute: what a connection waits for after it has sent a text.
        errors: its module of exceptions.
        is_fine: the states of a result that is no error.
        idle: the state of a connection outside of a transaction.
        plain: its classes of connections and cursors; a class of the app's may do more.
    """

    transformer: Callable[[Any], Any]
    execute: Callable[[Any], Any]
    errors: Any
    is_fine: frozenset[int]
    idle: int
    plain: frozenset[type]


@functools.cache
def _psycopg() -> _Psycopg | None:
    """What is used of psycopg; None if this release lacks one of the names: not all are public."""
    try:
        from psycopg import (
            AsyncClientCursor,
            AsyncConnection,
            AsyncCursor,
            ClientCursor,
            Connection,
            Cursor,
            errors,
            pq,
        )
        from psycopg.adapt import Transformer
        from psycopg.generators import execute
    except ImportError:
        return None
    used = {
        Transformer: ("as_literal", "load_rows", "set_pgresult"),
        Connection: ("wait",),
        AsyncConnection: ("wait",),
        pq.PGconn: ("send_query", "transaction_status"),
        errors: ("error_from_result",),
    }
    if not all(hasattr(owner, name) for owner, names in used.items() for name in names):
        return None
    fine = pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK, pq.ExecStatus.EMPTY_QUERY
    connections = Connection, AsyncConnection
    cursors = Cursor, ClientCursor, AsyncCursor, AsyncClientCursor
    return _Psycopg(
        Transformer,
        execute,
        errors,
        frozenset(map(int, fine)),
        int(pq.TransactionStatus.IDLE),
        frozenset((*connections, *cursors)),
    )


class _OnAsyncpg(Talk):
    """asyncpg, which accepts several statements as one text, but then returns no rows.

    So the locked row is read by another statement, which is one more round trip.
    """

    can_read = False

    def __init__(self, connection: Connection, timeout_s: float) -> None:
        super().__init__(connection, timeout_s)
        self._adapted: Any = connection.connection.dbapi_connection

    def is_possible(self) -> bool:
        adapted = self._adapted
        level = (adapted.isolation_level or "read_committed").lower().replace(" ", "_")
        return level == "read_committed" and not (adapted.readonly or adapted.deferrable)

    def text(self, statement: Prepared, values: Mapping[str, Any]) -> Text | None:
        text = super().text(statement, values)
        return text if text and all(type(value) in _LITERALS for value in text[1]) else None

    def begin(self, lock: Text, select: Text | None) -> tuple[Any, Sequence[Any]]:
        # Else SQLAlchemy begins a transaction before what is read below.
        self.connection.execution_options(isolation_level="AUTOCOMMIT")
        self._execute(_joined((_BEGIN, ()), lock))
        # What this statement sees is newer than the lock.
        text, values = lock
        if select is not None:
            found = f"SELECT true AS {_FOUND}, mobync_b.* FROM ({select[0]}) AS mobync_b"
            text = f"SELECT * FROM ({text}) AS mobync_a LEFT JOIN ({found}) AS mobync_c ON true"
            values = [*values, *select[1]]
        cursor = self._adapted.cursor()
        marks = tuple(f"${number}" for number in range(1, len(values) + 1))
        cursor.execute(text % marks, tuple(values))
        rows = cursor.fetchall()
        if not rows or select is None:
            return (rows[0] if rows else None), []
        at = [column[0] for column in cursor.description].index(_FOUND)
        return rows[0][:at], [row[at + 1 :] for row in rows if row[at]]

    def write(self, statements: Sequence[Text], end: bool) -> None:
        self._execute(_joined(*statements, *_END[end]))

    def roll_back(self) -> None:
        if self.driver.is_in_transaction():
            self._execute(("ROLLBACK", ()))

    def _execute(self, statements: Text) -> None:
        text, values = statements
        literals = tuple(_LITERALS[type(value)](value) for value in values)
        try:
            awaited(self.driver.execute(text % literals))
        except Exception as error:
            self._adapted._handle_exception(error)  # raises what SQLAlchemy makes of it


def _quoted(text: str) -> str:
    # Whatever the setting of standard_conforming_strings is.
    return " E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


# A value as part of a text for PostgreSQL, which finds out the type by where it is.
_LITERALS: dict[type, Callable[[Any], str]] = {
    type(None): lambda value: "NULL",
    str: _quoted,
    bytes: lambda value: _quoted(f"\\x{value.hex()}"),
    **dict.fromkeys((bool, int, float, Decimal, UUID), lambda value: f"'{value}'"),
    **dict.fromkeys((date, time, datetime), lambda value: f"'{value.isoformat()}'"),
}


class _OnMariaDB(Talk):
    """PyMySQL. A compound statement does not need the permission to send several statements, which
    would also help injections."""

    def is_possible(self) -> bool:
        settings = mysql_settings(self.connection)
        return (
            settings is not None
            and getattr(self.connection.dialect, "is_mariadb", False)
            and settings.most_bytes >= _LEAST_PACKET_BYTES
            and not settings.is_galera
        )

    def begin(self, lock: Text, select: Text | None) -> tuple[Any, Sequence[Any]]:
        text, values = _joined(lock, select)
        row, rows = self._execute(
            f"{SET_ISOLATION_LEVEL}; {self._waiting} {text}", values, 1 if select is None else 2
        )
        return (row[0] if row else None), rows

    def read(self, statement: Text) -> Sequence[Any]:
        text, values = statement
        # The app or the server may have another level, which sees rows that are not committed or
        # waits for writers.  It can be set only outside of a transaction.
        alone = f"ROLLBACK; {SET_ONE_MOMENT}; {text}; ROLLBACK"
        rows: Sequence[Any] = self._execute(alone, values, 1)[0]
        return rows

    def select(self, statement: Text) -> Sequence[Any]:
        rows: Sequence[Any] = self._execute(*statement, 1)[0]
        return rows

    def write(self, statements: Sequence[Text], end: bool) -> None:
        waiting = self._waiting
        patient = [(f"{waiting} {text}", values) for text, values in statements]
        self._execute(*_joined(*patient, *_END[end]), 0)

    @property
    def _waiting(self) -> str:
        seconds = max(1, math.ceil(self.timeout_s))
        return f"SET STATEMENT innodb_lock_wait_timeout = {seconds} FOR"

    def _execute(self, text: str, values: Sequence[Any], sets: int) -> Any:
        """Execute several statements; return the rows of the first two that have rows."""
        with self.driver.cursor() as cursor:
            cursor.execute(f"BEGIN NOT ATOMIC {text}; END", values)
            rows = cursor.fetchall() if sets else ()
            return rows, cursor.fetchall() if sets > 1 and cursor.nextset() else ()


class _OnAsyncMariaDB(_OnMariaDB):
    """asyncmy, awaited."""

    def roll_back(self) -> None:
        awaited(self.driver.rollback())

    def _execute(self, text: str, values: Sequence[Any], sets: int) -> Any:
        return awaited(self._awaited(text, values, sets))

    async def _awaited(self, text: str, values: Sequence[Any], sets: int) -> Any:
        async with self.driver.cursor() as cursor:
            # As text, too, where the app has it prepare statements.
            await cursor.execute(cursor.mogrify(f"BEGIN NOT ATOMIC {text}; END", values))
            rows = await cursor.fetchall() if sets else ()
            return rows, await cursor.fetchall() if sets > 1 and await cursor.nextset() else ()


class _OnAiosqlite(_OnSQLite):
    """aiosqlite, which does each thing in its own thread and then wakes the task."""

    def __init__(self, connection: Connection, timeout_s: float) -> None:
        self._aiosqlite: Any = connection.connection.driver_connection
        super().__init__(connection, timeout_s)

    def is_possible(self) -> bool:
        # Neither name is public.  A release without them gets its statements from SQLAlchemy.
        return hasattr(self._aiosqlite, "_execute") and self.driver and super().is_possible()

    def begin(self, lock: Text, select: Text | None) -> tuple[Any, Sequence[Any]]:
        return self._run(partial(super().begin, lock, select))

    def select(self, statement: Text) -> Sequence[Any]:
        return self._run(partial(super().select, statement))

    def write(self, statements: Sequence[Text], end: bool) -> None:
        self._run(partial(super().write, statements, end))

    def roll_back(self) -> None:
        self._run(super().roll_back)

    def after(self) -> None:
        if self._own_ms > self._wanted_ms:
            self._run(super().after)

    def _driver(self) -> Any:
        return getattr(self._aiosqlite, "_conn", None)

    def _run(self, work: Callable[[], T]) -> T:
        done: T = awaited(self._aiosqlite._execute(work))
        return done


_TALKS: dict[tuple[str, str, bool], type[Talk]] = {
    ("sqlite", "pysqlite", False): _OnSQLite,
    ("sqlite", "aiosqlite", True): _OnAiosqlite,
    ("postgresql", "psycopg", False): _OnPostgreSQL,
    ("postgresql", "psycopg", True): _OnAsyncPostgreSQL,
    ("postgresql", "asyncpg", True): _OnAsyncpg,
    ("mysql", "pymysql", False): _OnMariaDB,
    ("mariadb", "pymysql", False): _OnMariaDB,
    ("mysql", "asyncmy", True): _OnAsyncMariaDB,
    ("mariadb", "asyncmy", True): _OnAsyncMariaDB,
}


def can_read(engine: Engine) -> bool:
    """Whether a connection of an engine may be one to read with."""
    dialect = engine.dialect
    kind = _TALKS.get((dialect.name, dialect.driver, dialect.is_async))
    # A new connection is checked first, in a transaction that SQLAlchemy begins.
    is_always_new = dialect.name != "sqlite" and isinstance(engine.pool, NullPool)
    return kind is not None and kind.can_read and not is_always_new


def talk_to(connection: Connection, timeout_s: float) -> Talk | None:
    """How to talk to the driver of a connection that was just opened; None: not at all.

    Nobody may listen to its engine.
    """
    dialect = connection.dialect
    kind = _TALKS.get((dialect.name, dialect.driver, dialect.is_async))
    if kind is None:
        return None
    if dialect.name != "sqlite" and statement_for_level(connection) is None:
        return None
    talk = kind(connection, timeout_s)
    return talk if talk.is_possible() else None


def somebody_listens(engine: Engine) -> bool:
    """Whether the app listens to events of statements or transactions."""
    return bool(
        getattr(engine, "_has_events", True)
        or getattr(engine.dialect, "_has_events", True)
        or engine.logger.isEnabledFor(logging.INFO)
        or engine.get_execution_options().get("schema_translate_map")
    )


def _joined(*statements: Text | None) -> Text:
    given = [each for each in statements if each is not None]
    return "; ".join(text for text, _ in given), [v for _, values in given for v in values]
