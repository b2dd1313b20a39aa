"""A small sync by the driver itself: as few round trips as it takes, and no object for a statement.

SQLAlchemy's way to a statement and its result costs several times what a database needs for one
row, and each statement waits for its answer.  So the first attempt at a sync hands its text to the
driver: the begin together with the owner's lock, and all writes together with the commit.

    begin, lock the head, read the device  -->  the rules, the merge: writes are noted  -->
        the writes, commit

PostgreSQL takes several statements as one text, MariaDB as one compound statement.  Both end at the
first error, and what was done before it is rolled back.  On SQLite nothing is sent, and statements
follow each other.

Who wrote what the database refuses cannot be told then.  So it is told to nobody: the attempt is
begun again, carefully, in the way of :mod:`._refusals`.

None of this is done where something would be left out: an event of the app's on statements or
transactions, a log of statements, an isolation level that the app has chosen.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, TypeVar

from sqlalchemy import Table
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.exc import DBAPIError

from ..synchronizer import WriteCarefully
from ._errors import OUTAGES, Kind, is_busy, kind_of
from ._locking import (
    SET_ISOLATION_LEVEL,
    Head,
    Heads,
    head_of,
    lock_statement,
    make_and_lock_head,
    statement_for_level,
    waiting,
)
from ._prepared import Prepared
from ._settings import mysql_settings

T = TypeVar("T")

Statement = tuple[Prepared, Mapping[str, Any]]
"""A statement, and its values by name."""

Text = tuple[str, Sequence[Any]]
"""A statement with a mark for each value, and the values."""

# More is not a small sync: it is written as a large one, by few statements for many rows.
_MOST_STATEMENTS = 20
_MOST_CHARACTERS = 50_000
_COUNTED = (str, bytes)
_LEAST_PACKET_BYTES = 1_000_000  # of MariaDB; that many characters are sure to fit

_OWN_BUSY_TIMEOUT = "mobync_own_busy_timeout"

# What a careful attempt would meet as well, or has no need to.
_AS_IT_IS = (Kind.LOCKED, Kind.CONFLICT, *OUTAGES)


class Talk:
    """How a driver is told several statements at once.

    After an error what was begun is left open.

    Args:
        connection: whose driver to talk to; it has not begun.
        timeout_s: seconds to wait for a lock, at each statement.
    """

    def __init__(self, connection: Connection, timeout_s: float) -> None:
        self.connection = connection
        self.driver: Any = connection.connection.driver_connection
        self.timeout_s = timeout_s

    def is_possible(self) -> bool:
        """Whether the connection is as it must be."""
        raise NotImplementedError

    def begin(self, lock: Text, select: Text | None) -> tuple[Any, Sequence[Any]]:
        """Begin, lock, and read what else is wanted.

        Returns:
            The row of the lock's statement, None if there is none; and those of the other.
        """
        raise NotImplementedError

    def write(self, statements: Sequence[Text], end: bool) -> None:
        """Execute statements, and commit if that is the end."""
        raise NotImplementedError

    def roll_back(self) -> None:
        """Roll back whatever there is."""
        self.driver.rollback()

    def after(self) -> None:
        """Leave the driver's connection as it was before, when all is over."""


class _OnSQLite(Talk):
    def __init__(self, connection: Connection, timeout_s: float) -> None:
        super().__init__(connection, timeout_s)
        self._wanted_ms = math.ceil(timeout_s * 1000)
        own_ms = connection.info.get(_OWN_BUSY_TIMEOUT)
        if own_ms is None:
            own_ms = self.driver.execute("PRAGMA busy_timeout").fetchone()[0]
            connection.info[_OWN_BUSY_TIMEOUT] = own_ms
        self._own_ms: int = own_ms  # what the app's connection waits

    def is_possible(self) -> bool:
        # Else the app begins transactions itself, by SQLAlchemy's recipe or autocommit=False.
        return not self.driver.in_transaction

    def begin(self, lock: Text, select: Text | None) -> tuple[Any, Sequence[Any]]:
        if self._own_ms > self._wanted_ms:
            self._set_busy_timeout(self._wanted_ms)
        self._patiently(lambda: self.driver.execute("BEGIN IMMEDIATE"))
        row = self.driver.execute(*lock).fetchone()
        return row, [] if select is None else self.driver.execute(*select).fetchall()

    def write(self, statements: Sequence[Text], end: bool) -> None:
        for statement in statements:
            self.driver.execute(*statement)
        if end:
            self._patiently(lambda: self.driver.execute("COMMIT"))

    def roll_back(self) -> None:
        if self.driver.in_transaction:
            self.driver.execute("ROLLBACK")

    def after(self) -> None:
        if self._own_ms > self._wanted_ms:
            self._set_busy_timeout(self._own_ms)

    def _patiently(self, work: Callable[[], object]) -> None:
        """Wait as long as it is wanted, and ask for that only if the app waits less long."""
        try:
            work()
        except self.connection.dialect.loaded_dbapi.OperationalError as error:
            left_ms = self._wanted_ms - self._own_ms
            if not is_busy(error) or left_ms <= 0:
                raise
            self._set_busy_timeout(left_ms)
            try:
                work()
            finally:
                self._set_busy_timeout(self._own_ms)

    def _set_busy_timeout(self, timeout_ms: int) -> None:
        self.driver.execute(f"PRAGMA busy_timeout = {timeout_ms}").close()


class _OnPostgreSQL(Talk):
    """By psycopg's ClientCursor, which sends values as part of the text."""

    def is_possible(self) -> bool:
        driver = self.driver
        level = driver.isolation_level
        return not (
            (level is not None and level.name != "READ_COMMITTED")
            or driver.autocommit
            or driver.read_only
            or driver.deferrable
        )

    def begin(self, lock: Text, select: Text | None) -> tuple[Any, Sequence[Any]]:
        # Else the driver sends a BEGIN of its own first, and waits for the answer.
        self.connection.execution_options(isolation_level="AUTOCOMMIT")
        cursor = self._cursor()
        text, values = _joined(lock, select)
        cursor.execute(f"BEGIN ISOLATION LEVEL READ COMMITTED; {text}", values)
        cursor.nextset()
        row = cursor.fetchone()
        return row, cursor.fetchall() if select is not None and cursor.nextset() else []

    def write(self, statements: Sequence[Text], end: bool) -> None:
        texts = [text for text, _ in statements]
        values = [value for _, each in statements for value in each]
        if end:
            texts.append("COMMIT")
        self._cursor().execute("; ".join(texts), values)

    def _cursor(self) -> Any:
        from psycopg import ClientCursor

        return ClientCursor(self.driver)


class _OnMariaDB(Talk):
    """By PyMySQL.  A compound statement needs no leave to send several, as injections do."""

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
        with self.driver.cursor() as cursor:
            cursor.execute(
                f"BEGIN NOT ATOMIC {SET_ISOLATION_LEVEL}; {self._waiting} {text}; END", values
            )
            row = cursor.fetchone()
            return row, cursor.fetchall() if select is not None and cursor.nextset() else []

    def read(self, statement: Text) -> Any:
        """Execute a select in a transaction of its own; returns its first row, or None."""
        text, values = statement
        with self.driver.cursor() as cursor:
            cursor.execute(f"BEGIN NOT ATOMIC {text}; ROLLBACK; END", values)
            return cursor.fetchone()

    def write(self, statements: Sequence[Text], end: bool) -> None:
        texts = [f"{self._waiting} {text}" for text, _ in statements]
        values = [value for _, each in statements for value in each]
        if end:
            texts.append("COMMIT")
        with self.driver.cursor() as cursor:
            cursor.execute(f"BEGIN NOT ATOMIC {'; '.join(texts)}; END", values)

    @property
    def _waiting(self) -> str:
        seconds = max(1, math.ceil(self.timeout_s))
        return f"SET STATEMENT innodb_lock_wait_timeout = {seconds} FOR"


_TALKS: dict[tuple[str, str], type[Talk]] = {
    ("sqlite", "pysqlite"): _OnSQLite,
    ("postgresql", "psycopg"): _OnPostgreSQL,
    ("mysql", "pymysql"): _OnMariaDB,
    ("mariadb", "pymysql"): _OnMariaDB,
}


def talk_to(connection: Connection, timeout_s: float) -> Talk | None:
    """How to talk to the driver of a connection that was just opened; None: not at all."""
    dialect = connection.dialect
    kind = _TALKS.get((dialect.name, dialect.driver))
    if kind is None or dialect.is_async or _somebody_listens(connection):
        return None
    if dialect.name != "sqlite" and statement_for_level(connection) is None:
        return None
    talk = kind(connection, timeout_s)
    return talk if talk.is_possible() else None


def _somebody_listens(connection: Connection) -> bool:
    """Whether the app is told of statements or transactions, or has them changed."""
    engine = connection.engine
    return bool(
        getattr(engine, "_has_events", True)
        or getattr(engine.dialect, "_has_events", True)
        or engine.logger.isEnabledFor(logging.INFO)
        or connection.get_execution_options().get("schema_translate_map")
    )


def _joined(*statements: Text | None) -> Text:
    given = [each for each in statements if each is not None]
    return "; ".join(text for text, _ in given), [v for _, values in given for v in values]


def read_at_once(
    connection: Connection, statement: Prepared, values: Mapping[str, Any]
) -> Sequence[Any] | None:
    """Read a row on a connection that has not begun, in one round trip if it can.

    Then the connection is given back to its pool; closing it does no more.
    """
    talk = talk_to(connection, 0)
    text = statement.text(connection.dialect, values)
    if not isinstance(talk, _OnMariaDB) or text is None:
        return statement.execute(connection, values).first()
    row: Sequence[Any] | None = _told(connection, lambda: talk.read(text), [text])
    if row is not None:
        _give_back(connection)
    return row


class Direct:
    """An owner's transaction.

    Args:
        talk: to the driver of a connection that has not begun.

    Attributes:
        is_settled: whether nothing more can be noted.
    """

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self._connection = talk.connection
        self._noted: list[Text] = []
        self._characters = 0
        self.is_settled = False
        self._settled: ExitStack | None = None

    def lock(
        self, heads: Heads, log: Table, owner_id: str, select: Statement | None
    ) -> tuple[Head, Sequence[Any] | None]:
        """Begin, lock an owner, and read what else is wanted.

        Returns:
            The owner's head; and the rows of the other statement, None if it was not executed.

        Raises:
            What lock_owner() raises.
        """
        timeout_s = self._talk.timeout_s
        statement, values = lock_statement(self._connection, heads, owner_id, timeout_s)
        text = statement.text(self._connection.dialect, values)
        if text is None:
            raise RuntimeError(f"{heads.table.name!r} has columns that mobync did not declare")
        also = None if select is None else select[0].text(self._connection.dialect, select[1])
        said = [text] if also is None else [text, also]
        row, rows = _told(self._connection, lambda: self._talk.begin(text, also), said)
        if row is not None:
            return head_of(self._connection, heads, row), None if also is None else rows
        self.settle()
        return make_and_lock_head(self._connection, heads, log, owner_id, timeout_s), None

    def note(
        self, rows: Sequence[T], statement_of: Callable[[T], tuple[Prepared, Mapping[str, Any]]]
    ) -> bool:
        """Leave writes for the end.

        Args:
            rows: what to write.
            statement_of: the statement that writes one, and its values.

        Returns:
            False if these must be written now: there are too many, or they need SQLAlchemy.
        """
        if self.is_settled or len(self._noted) + len(rows) > _MOST_STATEMENTS:
            return False
        dialect: Dialect = self._connection.dialect
        texts = []
        for row in rows:
            statement, values = statement_of(row)
            text = statement.text(dialect, values)
            if text is None:
                return False
            texts.append(text)
        self._characters += _characters(texts)
        if self._characters > _MOST_CHARACTERS:
            return False
        self._noted += texts
        return True

    def flush(self) -> None:
        """Write what was noted, for who reads now.

        Raises:
            WriteCarefully: the database refuses it.
        """
        if self._noted:
            self._write(end=False)

    def settle(self) -> None:
        """Go on in the way of SQLAlchemy.

        Raises:
            WriteCarefully: the database refuses what was noted.
        """
        if self.is_settled:
            return
        self.flush()
        self.is_settled = True
        if not self._connection.in_transaction():
            self._connection.begin()  # which sends nothing
        self._settled = ExitStack()
        self._settled.enter_context(waiting(self._connection, self._talk.timeout_s))

    def __enter__(self) -> Direct:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Commit, or roll back.

        Raises:
            WriteCarefully: the database refuses what was noted.
        """
        try:
            if error is None:
                self._write(end=True)
        except BaseException as at_commit:
            self._roll_back(at_commit)
            raise
        if error is None:
            if self._settled is not None:
                self._settled.close()
            self._talk.after()
            _give_back(self._connection)
        else:
            self._roll_back(error)

    def _roll_back(self, error: BaseException) -> None:
        """Roll back after an error, which may have made the connection useless."""
        try:
            if not self._connection.invalidated:
                self._talk.roll_back()
                self._talk.after()
        except Exception as another:  # than what the caller is told
            self._connection.invalidate(another)
        if self._settled is not None:
            self._settled.__exit__(type(error), error, error.__traceback__)

    def _write(self, end: bool) -> None:
        noted, self._noted = self._noted, []
        try:
            _told(self._connection, lambda: self._talk.write(noted, end), noted)
        except DBAPIError as error:
            if kind_of(error) in _AS_IT_IS:
                raise
            raise WriteCarefully from error


def _told(connection: Connection, work: Callable[[], T], said: Sequence[Text]) -> T:
    """Do what talks to the driver; its errors become SQLAlchemy's, as everywhere else."""
    try:
        return work()
    except BaseException as error:
        is_drivers = isinstance(error, connection.dialect.loaded_dbapi.Error)
        if is_drivers or not isinstance(error, Exception):
            # Raises, and finds out whether the connection is of any use from now on.
            text = "; ".join(text for text, _ in said)
            values = [value for _, each in said for value in each]
            connection._handle_dbapi_exception(error, text, tuple(values), None, None)
        raise


def _give_back(connection: Connection) -> None:
    """Give a connection back to its pool, which need not roll back what is ended."""
    # Of PyMySQL's a rollback is a round trip.  Where the method is not there, close() does it.
    give_back = getattr(connection.connection, "_close_special", None)
    if give_back is not None and not connection.in_transaction():
        give_back(transaction_reset=True)


def _characters(texts: Sequence[Text]) -> int:
    return sum([len(v) for _, values in texts for v in values if v.__class__ in _COUNTED])
