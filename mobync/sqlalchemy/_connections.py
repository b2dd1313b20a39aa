"""The sources of transactions: an engine, or the app's session."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from sqlalchemy import Table, event
from sqlalchemy.engine import Connection, Dialect, Engine
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.exc import DBAPIError, IllegalStateChangeError, InvalidRequestError
from sqlalchemy.orm import Session, object_mapper, scoped_session, sessionmaker

from .._plain import check_plain, refuse_awaitable
from ._errors import Kind, kind_of
from ._locking import (
    DIALECTS,
    Heads,
    is_autocommit,
    isolation_level,
    prepare,
    read_head,
    reading_current,
    reading_one_moment,
    single_statements,
    statement_for_level,
)

SYNCING = "mobync_syncing"  # in the info of a session: a sync runs in its transaction
_JOINED = "mobync_joined"
_READ_CURRENT = "mobync_read_current"
_AFTER_COMMIT = "_mobync_after_commit"  # of an error
_ADVICE = {
    str: ": give create_engine(url)",
    sessionmaker: ": give scoped_session(sessionmaker)",
}


class Source(Protocol):
    """Gives connections."""

    def dialect(self) -> Dialect:
        """The database's dialect; a neutral one where it is not yet known."""

    def transaction(self) -> Any:
        """A context that gives a connection, commits when left normally, or else rolls back."""

    def after_lock(self, connection: Connection, heads: Heads, owner_id: str, clock: int) -> None:
        """Called when the owner is locked; the head has ``clock``."""

    def before_statement(self) -> None:
        """Called before a statement runs in the transaction."""

    def after_write(self, table: Table) -> None:
        """Called after rows of a table were written in the transaction."""

    def reading(self) -> Any:
        """A context that gives a connection to read with, outside of transaction()."""

    def may_begin_again(self) -> bool:
        """Whether the failed transaction contained only work of mobync."""

    def snapshot(self) -> AbstractContextManager[Connection] | None:
        """A context that gives a connection whose reads all see one moment; None: not available."""

    def session(self) -> Session | None:
        """The app's session, which may flush in the transaction."""


class EngineSource:
    """Transactions of mobync's own."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        check_dialect(engine.dialect)

    @property
    def engine(self) -> Engine:
        return self._engine

    def dialect(self) -> Dialect:
        return self._engine.dialect

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        with self.connected() as connection, self.begun(connection):
            yield connection

    @contextmanager
    def connected(self) -> Iterator[Connection]:
        """A connection that has not begun."""
        with self.connect() as connection, dropping_if_spoiled(connection):
            prepare(connection)
            yield connection

    def connect(self) -> Connection:
        return self._engine.connect()

    def connect_unheard(self) -> Connection:
        """A connection that has not begun, of an engine whose events nobody listens to.

        It does not look at the engine's events, which saves a third of the time to open it.
        """
        return Connection(self._engine, _has_events=False)

    @contextmanager
    def begun(self, connection: Connection) -> Iterator[None]:
        """A transaction on it."""
        options = _begin_options(connection)
        statement = None if options is None else statement_for_level(connection)
        if options is not None and statement is None:
            connection.execution_options(**options)
        with connection.begin():
            if statement:
                connection.exec_driver_sql(statement)
            yield

    def after_lock(self, connection: Connection, heads: Heads, owner_id: str, clock: int) -> None:
        pass

    def before_statement(self) -> None:
        pass

    def after_write(self, table: Table) -> None:
        pass

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        with self.connect() as connection, dropping_if_spoiled(connection):
            single_statements(connection)
            yield connection

    def may_begin_again(self) -> bool:
        return True

    def session(self) -> None:
        return None

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """A connection whose reads all see one moment; writers do not wait for it."""
        with self.connect() as connection, dropping_if_spoiled(connection):
            prepare(connection)
            with reading_one_moment(connection):
                yield connection


class SnapshotSource:
    """Reads on one connection, which somebody else opened and will close."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def dialect(self) -> Dialect:
        return self._connection.dialect

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        raise RuntimeError("a snapshot cannot be written to")
        yield self._connection

    def after_lock(self, connection: Connection, heads: Heads, owner_id: str, clock: int) -> None:
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

    def session(self) -> None:
        return None

    def snapshot(self) -> None:
        return None


class SessionSource:
    """The transactions of an app's session.

    Pending changes of the app's session are written together with mobync's rows, or not at all.
    Objects of rows that mobync writes are read again when they are next used.
    """

    def __init__(self, session: Session | scoped_session[Any], table: Table) -> None:
        self._registry = session
        self._table = table  # tells a session with several databases which one to use

    def _session(self) -> Session:
        if not isinstance(self._registry, scoped_session):
            return self._registry
        session: object = self._registry.registry()  # as SQLAlchemy's own call looks into it
        refuse_awaitable("the session factory", session)
        if not isinstance(session, Session):
            raise TypeError(
                f"the session factory must make a Session, not {type(session).__name__}"
            )
        return session

    def _check_bind(self, bind: object) -> None:
        check_blocking(bind)

    def dialect(self) -> Dialect:
        return DefaultDialect()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        session = self._session()
        if session.in_nested_transaction():
            raise RuntimeError("the session is in a savepoint: commit or roll it back first")
        bind = session.get_bind(clause=self._table)
        self._check_bind(bind)
        check_dialect(bind.dialect)
        joined = session.in_transaction() or (
            isinstance(bind, Connection) and bind.in_transaction()
        )
        session.info[_JOINED] = joined
        session.info[SYNCING] = True
        if not session.in_transaction():
            session.begin()
        committed: list[Session] = []
        try:
            connection = session.connection(
                {"clause": self._table}, None if joined else _begin_options(bind)
            )
            if joined:
                _check_no_autocommit(connection)
            prepare(connection)
            with dropping_if_spoiled(connection), reading_current(connection) as read_current:
                session.info[_READ_CURRENT] = read_current
                yield connection
                with _noting_commit(session, committed):
                    session.commit()
        except BaseException as error:
            if not _roll_back(session) or committed:
                vars(error)[_AFTER_COMMIT] = True
            raise
        finally:
            session.info.pop(SYNCING, None)

    def after_lock(self, connection: Connection, heads: Heads, owner_id: str, clock: int) -> None:
        # MariaDB and MySQL lock the current rows, but read the rows as of the first read of the
        # transaction. The app may have made that read long before.
        session = self._session()
        if not session.info[_JOINED]:
            return
        head = read_head(connection, heads, owner_id)
        if head is None or head.clock != clock:
            session.flush()
            session.expire_all()
            session.info[_READ_CURRENT]()

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

    def session(self) -> Session:
        return self._session()

    def may_begin_again(self) -> bool:
        return not self._session().info.get(_JOINED, False)

    def snapshot(self) -> None:
        return None  # the app's transaction may have read long before


def _roll_back(session: Session) -> bool:
    """Roll back, unless the session has committed: then a listener of the app failed after that.

    Returns:
        Whether it was rolled back. If not, the session's transaction has ended nevertheless.
    """
    try:
        session.rollback()
    except IllegalStateChangeError:
        raise
    except InvalidRequestError:
        committed = session.get_transaction()
        if committed is None:
            raise
        committed.close()
        session.expire_all()
        return False
    return True


@contextmanager
def _noting_commit(session: Session, committed: list[Session]) -> Iterator[None]:
    """Note whether the session has committed, before a listener of the app can fail after that.

    Without this, an error of an ``after_transaction_end`` looks as one of the commit: then the
    session has no transaction either way.
    """

    def note(session: Session) -> None:
        if not session.in_nested_transaction():  # else the app releases a savepoint before that
            committed.append(session)

    event.listen(session, "after_commit", note, insert=True)
    try:
        yield
    finally:
        event.remove(session, "after_commit", note)


def is_after_commit(error: BaseException) -> bool:
    """Whether an error was raised by the app, when a session had committed what mobync wrote."""
    return _AFTER_COMMIT in vars(error)


@contextmanager
def dropping_if_spoiled(connection: Connection) -> Iterator[None]:
    """Keep a connection out of its pool if its server no longer accepts writes.

    After a failover, the pool's connections still lead to the old server. It answers, so a ping
    does not find the problem.
    """
    try:
        yield
    except DBAPIError as error:
        drop_if_spoiled(connection, error)
        raise


def drop_if_spoiled(connection: Connection, error: BaseException | None) -> None:
    """Do what dropping_if_spoiled() does after an error."""
    is_spoiled = isinstance(error, DBAPIError) and kind_of(error) is Kind.SPOILED
    if is_spoiled and not connection.invalidated:
        connection.invalidate(error)


def source_of(engine: Any, table: Table) -> Source:
    """The source that an app's engine or session is.

    Raises:
        TypeError: it is neither.
        ValueError: mobync cannot lock an owner in that database.
    """
    check_blocking(engine)
    if isinstance(engine, Engine):
        return EngineSource(engine)
    session = engine
    if not isinstance(session, Session | scoped_session):
        session = getattr(engine, "session", None)  # Flask-SQLAlchemy's db
    if not isinstance(session, Session | scoped_session):
        raise TypeError(
            "engine must be an Engine, a Session, a scoped_session or Flask-SQLAlchemy's db, "
            f"not {type(engine).__name__}{_ADVICE.get(type(engine), '')}"
        )
    if isinstance(session, scoped_session):
        check_plain("the session factory", session.session_factory)
        check_blocking(session.session_factory)
    else:
        check_blocking(session.bind)
    return SessionSource(session, table)


def check_blocking(engine: object) -> None:
    """Refuse an object that works only with asyncio.

    Raises:
        TypeError: it does.
    """
    kind = engine if isinstance(engine, type) else type(engine)
    dialect = getattr(engine, "dialect", None)
    if kind.__module__.startswith("sqlalchemy.ext.asyncio") or (
        isinstance(dialect, Dialect) and dialect.is_async
    ):
        raise TypeError(
            f"engine must be a blocking one, and this {kind.__name__} is for asyncio: "
            "pass it to an AsyncSQLAlchemySynchronizer or AsyncDocumentSynchronizer, and await "
            "mobync.apply_async(); or make a second, blocking one with create_engine()"
        )


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
    if is_autocommit(connection):
        raise RuntimeError("the session's transaction is in AUTOCOMMIT: it holds no lock")
