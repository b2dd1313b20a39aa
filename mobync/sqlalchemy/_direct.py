"""A small sync that talks to the driver directly, with few round trips and no objects for
statements.

SQLAlchemy needs several times as long for a statement and its result as a database needs for one
row, and each statement waits for its answer. So the first attempt at a sync passes texts to the
driver: the begin together with the owner's lock, and all writes together with the commit.

    begin, lock the head, read the device  -->  the rules, the merge: writes are noted  -->
        the writes, commit

PostgreSQL takes several statements as one text, MariaDB as one compound statement.  Both end at the
first error, and what was done before it is rolled back.  On SQLite nothing is sent, and statements
follow each other.

If the database refuses a row, it is not known which one. So nobody gets this error: the sync starts
again, carefully, as :mod:`._refusals` does it.

This is not done if it would leave something out: an event of the app on statements or transactions,
a log of statements, or an isolation level that the app has chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from sqlalchemy import Table, event
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from ..synchronizer import WriteCarefully
from ._errors import OUTAGES, Kind, kind_of
from ._locking import (
    Head,
    Heads,
    head_of,
    lock_statement,
    make_and_lock_head,
    single_statements,
    waiting,
)
from ._prepared import Prepared
from ._talks import Talk, Text, talk_to

P = ParamSpec("P")
T = TypeVar("T")

Statement = tuple[Prepared, Mapping[str, Any]]
"""A statement, and its values by name."""

# More than this is a large sync, which is written with few statements for many rows.
_MOST_STATEMENTS = 20
_MOST_CHARACTERS = 50_000
_COUNTED = (str, bytes)

# What a careful attempt would meet as well, or has no need to.
_AS_IT_IS = (Kind.LOCKED, Kind.CONFLICT, *OUTAGES)


def read_directly(
    connection: Connection, statement: Prepared, values: Mapping[str, Any]
) -> Sequence[Any] | None:
    """Read rows on a connection that has not begun, in one round trip.

    Then the connection goes back to its pool; closing it does nothing more.

    Args:
        connection: the connection, of an engine to which nobody listens.
        statement: a select.
        values: its values.

    Returns:
        The rows; None: SQLAlchemy must execute the statement.
    """
    talk = None if connection.in_transaction() else talk_to(connection, 0)
    text = talk.text(statement, values) if talk is not None and talk.can_read else None
    if talk is None or text is None:
        return None
    rows = _told(connection, [text], talk.read, text)
    _give_back(connection)
    return rows


def read_alone(
    connection: Connection, statement: Prepared, values: Mapping[str, Any]
) -> Sequence[Any]:
    """Read rows on a connection that has not begun, in a transaction of its own."""
    if not connection.in_transaction():
        single_statements(connection)
    return statement.execute(connection, values).all()


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
        text = self._talk.text(statement, values)
        if text is None:
            raise RuntimeError(f"{heads.table.name!r} has columns that mobync did not declare")
        also = None if select is None else self._talk.text(*select)
        said = [text] if also is None else [text, also]
        row, rows = _told(self._connection, said, self._talk.begin, text, also)
        if row is not None:
            return head_of(self._connection, heads, row), None if also is None else rows
        self.settle()
        return make_and_lock_head(self._connection, heads, log, owner_id, timeout_s), None

    def note(
        self, rows: Sequence[T], statement_of: Callable[[T], tuple[Prepared, Mapping[str, Any]]]
    ) -> bool:
        """Keep writes for the end.

        Args:
            rows: what to write.
            statement_of: the statement that writes one, and its values.

        Returns:
            False if they must be written now, because there are too many or they need SQLAlchemy.
        """
        if self.is_settled or len(self._noted) + len(rows) > _MOST_STATEMENTS:
            return False
        text_of = self._talk.text
        texts, characters = [], self._characters
        for row in rows:
            text = text_of(*statement_of(row))
            if text is None:
                return False
            texts.append(text)
            for value in text[1]:
                if value.__class__ in _COUNTED:
                    characters += len(value)
        if characters > _MOST_CHARACTERS:
            return False
        self._characters = characters
        self._noted += texts
        return True

    def select(self, statement: Prepared, values: Mapping[str, Any]) -> Sequence[Any]:
        """The rows of a select, which sees what was noted.

        Raises:
            WriteCarefully: the database refuses what was noted.
        """
        self.flush()
        may_talk = self._talk.can_read and not self.is_settled
        text = self._talk.text(statement, values) if may_talk else None
        if text is None:
            return statement.execute(self._connection, values).all()
        return _told(self._connection, [text], self._talk.select, text)

    def flush(self) -> None:
        """Write the noted rows before a read.

        Raises:
            WriteCarefully: the database refuses it.
        """
        if self._noted:
            self._write(end=False)

    def settle(self) -> None:
        """Continue with SQLAlchemy.

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

    def settle_at_next_statement(self) -> None:
        """Call settle() when SQLAlchemy is about to execute a statement."""
        if self.is_settled or self._connection.in_transaction():
            return
        self._connection.begin()

        def settle(*arguments: object) -> None:
            self.settle()

        event.listen(self._connection, "before_cursor_execute", settle, once=True)

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
        """Roll back after an error; the connection may be useless."""
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
            _told(self._connection, noted, self._talk.write, noted, end)
        except DBAPIError as error:
            if kind_of(error) in _AS_IT_IS:
                raise
            raise WriteCarefully from error


def _told(
    connection: Connection,
    said: Sequence[Text],
    work: Callable[P, T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Do what talks to the driver; its errors become SQLAlchemy's, as everywhere else."""
    try:
        return work(*args, **kwargs)
    except BaseException as error:
        is_drivers = isinstance(error, connection.dialect.loaded_dbapi.Error)
        if is_drivers or not isinstance(error, Exception):
            # Raises, and finds out whether the connection is of any use from now on.
            text = "; ".join(text for text, _ in said)
            values = [value for _, each in said for value in each]
            connection._handle_dbapi_exception(error, text, tuple(values), None, None)
        raise


def _give_back(connection: Connection) -> None:
    """Give a connection back to its pool, which need not roll back, because the transaction has
    ended.
    """
    # Of PyMySQL's a rollback is a round trip.  Where the method is not there, close() does it.
    give_back = getattr(connection.connection, "_close_special", None)
    if give_back is not None and not connection.in_transaction():
        give_back(transaction_reset=True)
