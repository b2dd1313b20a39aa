"""Where a transaction comes from: an engine of its own, or the app's session."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from sqlalchemy import Table
from sqlalchemy.engine import Connection, Dialect, Engine
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.orm import Session, object_mapper, scoped_session

from ..errors import BusyError
from ._locking import DIALECTS, begin_reading, isolation_level, prepare, read_head

_JOINED = "mobync_joined"


class Source(Protocol):
    """Gives connections."""

    def dialect(self) -> Dialect:
        """The database's dialect; a neutral one where it is not yet known."""

    def transaction(self) -> Any:
        """A context that gives a connection, commits when left normally, or else rolls back."""

    def after_lock(self, connection: Connection, heads: Table, owner_id: str, clock: int) -> None:
        """The owner's lock was just got, and the head holds ``clock``."""

    def before_statement(self) -> None:
        """A statement is about to run in the transaction."""

    def after_write(self, table: Table) -> None:
        """Rows of a table were written in the transaction."""

    def reading(self) -> Any:
        """A context that gives a connection to read with, outside of transaction()."""

    def may_begin_again(self) -> bool:
        """Whether the transaction that just failed held nothing but what mobync did."""


class EngineSource:
    """Transactions of mobync's own."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        check_dialect(engine.dialect)

    def dialect(self) -> Dialect:
        return self._engine.dialect

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        with self._engine.connect() as connection:
            prepare(connection)
            level = isolation_level(connection.dialect.name)
            chosen = connection.get_execution_options().get("isolation_level")
            if level is not None and chosen in (None, "AUTOCOMMIT"):
                connection.execution_options(isolation_level=level)
            with connection.begin():
                yield connection

    def after_lock(self, connection: Connection, heads: Table, owner_id: str, clock: int) -> None:
        pass

    def before_statement(self) -> None:
        pass

    def after_write(self, table: Table) -> None:
        pass

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        with self._engine.connect() as connection:
            yield connection

    def may_begin_again(self) -> bool:
        return True

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """A connection whose reads all see one moment; writers do not wait for it."""
        with self._engine.connect() as connection:
            prepare(connection)
            if connection.dialect.name != "sqlite":
                connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                begin_reading(connection)
                yield connection


class SnapshotSource:
    """Reads by one connection, which somebody else opened and will close."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def dialect(self) -> Dialect:
        return self._connection.dialect

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        raise RuntimeError("a snapshot cannot be written to")
        yield self._connection

    def after_lock(self, connection: Connection, heads: Table, owner_id: str, clock: int) -> None:
        pass

    def before_statement(self) -> None:
        pass

    def after_write(self, table: Table) -> None:
        pass

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        yield self._connection

    def may_begin_again(self) -> bool:
        return False


class SessionSource:
    """The transactions of an app's session.

    What the app has pending in the session goes to the database with what mobync writes, or not at
    all.  Objects that the session holds of rows that mobync writes are read anew when next used.
    """

    def __init__(self, session: Session | scoped_session[Any], table: Table) -> None:
        self._registry = session
        self._table = table  # tells a session of several databases which one is meant

    def _session(self) -> Session:
        if isinstance(self._registry, scoped_session):
            return self._registry()  # type: ignore[no-any-return]
        return self._registry

    def dialect(self) -> Dialect:
        return DefaultDialect()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        session = self._session()
        if session.in_nested_transaction():
            raise RuntimeError("the session is in a savepoint: commit or roll it back first")
        bind = session.get_bind(clause=self._table)
        check_dialect(bind.dialect)
        joined = session.in_transaction() or (
            isinstance(bind, Connection) and bind.in_transaction()
        )
        session.info[_JOINED] = joined
        if not session.in_transaction():
            session.begin()
        try:
            connection = session.connection(
                {"clause": self._table}, None if joined else _begin_options(bind)
            )
            if joined:
                _check_no_autocommit(connection)
            prepare(connection)
            yield connection
            session.commit()
        except BaseException:
            session.rollback()
            raise

    def after_lock(self, connection: Connection, heads: Table, owner_id: str, clock: int) -> None:
        # MariaDB and MySQL lock what is there now, but read what was there when the transaction
        # read for the first time; that may have been long before, on the app's part.
        if self._session().info[_JOINED] and read_head(connection, heads, owner_id) != clock:
            raise BusyError(
                "another sync of this owner was committed since the session's transaction began, "
                "which cannot see it; begin a new one"
            )

    def before_statement(self) -> None:
        self._session().flush()

    def after_write(self, table: Table) -> None:
        session = self._session()
        for instance in session.identity_map.values():
            if table in object_mapper(instance).tables:
                session.expire(instance)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        session = self._session()
        session.flush()
        yield session.connection({"clause": self._table})

    def may_begin_again(self) -> bool:
        return not self._session().info.get(_JOINED, False)


def source_of(engine: Any, table: Table) -> Source:
    """The source that an app's engine or session is.

    Raises:
        TypeError: it is neither.
        ValueError: mobync cannot lock an owner in that database.
    """
    if isinstance(engine, Engine):
        return EngineSource(engine)
    session = engine
    if not isinstance(session, Session | scoped_session):
        session = getattr(engine, "session", None)  # Flask-SQLAlchemy's db
    if not isinstance(session, Session | scoped_session):
        raise TypeError(
            "engine must be an Engine, a Session, a scoped_session or Flask-SQLAlchemy's db, "
            f"not {type(engine).__name__}"
        )
    return SessionSource(session, table)


def check_dialect(dialect: Dialect) -> None:
    if dialect.name not in DIALECTS:
        raise ValueError(
            f"mobync can lock an owner in {', '.join(DIALECTS)}, not in {dialect.name!r}"
        )


def _begin_options(bind: Engine | Connection) -> dict[str, Any] | None:
    level = isolation_level(bind.dialect.name)
    chosen = bind.get_execution_options().get("isolation_level")
    if level is None or chosen not in (None, "AUTOCOMMIT"):
        return None
    return {"isolation_level": level}


def _check_no_autocommit(connection: Connection) -> None:
    if connection.dialect.name == "sqlite":
        return  # whose driver may be told so and yet begin when it is told to
    driver: Any = connection.connection.driver_connection
    setting = getattr(driver, "get_autocommit", None) or getattr(driver, "autocommit", False)
    if setting() if callable(setting) else setting:
        raise RuntimeError("the session's transaction is in AUTOCOMMIT: it holds no lock")
