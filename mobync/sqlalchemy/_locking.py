"""An owner's lock: the row of its head, held until the transaction ends.

PostgreSQL, MariaDB and MySQL lock that one row. SQLite can lock only the whole file, so there syncs
of different owners also wait for each other.

The order matters.  The head is locked before anything is read, so that what the last holder
committed is seen: at READ COMMITTED every statement sees what was committed before it; on MariaDB
and MySQL at REPEATABLE READ the snapshot is taken by the first plain read, which comes after the
lock; on PostgreSQL at REPEATABLE READ and SERIALIZABLE the lock itself fails when the head was
changed since the snapshot, and the transaction is begun again.  A node or a replica that is behind
would show an old head, by which a device seems to be ahead: a Galera node is told to catch up
first, and a replica is not used.  The head is looked for before it
is inserted, because an insert that meets a row locks it in a way that two waiters cannot both
turn into an exclusive lock: they would deadlock.

A request that only reads needs no lock, but must read the log and the head as of one moment: in a
transaction at REPEATABLE READ, or in any transaction on SQLite.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

from sqlalchemy import (
    Select,
    Table,
    Text,
    bindparam,
    event,
    func,
    literal_column,
    select,
    update,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from ..errors import UnavailableError
from ._prepared import Prepared
from ._settings import mysql_settings
from ._values import is_mysql

DIALECTS = ("sqlite", "postgresql", "mysql", "mariadb")

_SYNC_BEFORE_READS = 1  # of Galera's wsrep_sync_wait
_READ_ONLY = "@@GLOBAL.read_only"
_WAL_TRIED = "mobync_wal_tried"

READS_OWN_ROWS = "mobync_reads_own_rows"
"""The option of a statement that reads only what its own transaction has written."""

_OWNER, _CLOCK, _SETTING = "mobync_owner", "mobync_clock", "mobync_setting"  # values by name
_SET_LOCK_TIMEOUT = func.set_config("lock_timeout", bindparam(_SETTING, type_=Text()), True)
# psycopg prepares frequent statements, and PostgreSQL may keep one plan for each. A plan from a
# time when the log was small reads the whole log, also when the log has grown.
_PLAN_FOR_EACH_STATEMENT = func.set_config("plan_cache_mode", "force_custom_plan", True)

_SET_PLANNING = Prepared(select(_PLAN_FOR_EACH_STATEMENT))

SET_ISOLATION_LEVEL = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED"  # of the next one, on MySQL
SET_ONE_MOMENT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"


def isolation_level(dialect_name: str) -> str | None:
    """The isolation level to sync at, if the app does not choose one."""
    return None if dialect_name == "sqlite" else "READ COMMITTED"


def statement_for_level(connection: Connection) -> str | None:
    """The statement that sets the isolation level of the transaction that begins now; "" if nothing
    must be set. None: SQLAlchemy must set it, which takes four statements on MariaDB and MySQL.
    """
    if connection.get_execution_options().get("isolation_level") or is_autocommit(connection):
        return None
    if is_mysql(connection.dialect):
        return SET_ISOLATION_LEVEL
    return "" if connection.default_isolation_level == isolation_level("postgresql") else None


def is_autocommit(connection: Connection) -> bool:
    driver = _driver_connection(connection)
    setting = getattr(driver, "get_autocommit", None) or getattr(driver, "autocommit", False)
    return bool(setting() if callable(setting) else setting)


def prepare(connection: Connection) -> None:
    """Put a SQLite file into WAL mode, in which readers and a writer do not wait for each other.

    The file keeps the mode. If the mode cannot be changed now, because another process uses the
    file, syncs are as safe, but slower.
    """
    if connection.dialect.name != "sqlite" or _WAL_TRIED in connection.info:
        return
    if _driver_connection(connection).in_transaction:
        return
    connection.info[_WAL_TRIED] = True
    with (
        _sqlite_busy_timeout(connection, 0),
        contextlib.suppress(connection.dialect.loaded_dbapi.OperationalError),
    ):
        _pragma(connection, "journal_mode = WAL")


class Head(NamedTuple):
    """The content of an owner's head.

    Attributes:
        clock: the highest clock of the owner's log, -1 if it is empty.
        state: the stored state of the owner; None: there is none, or no column for it.
    """

    clock: int
    state: str | None = None


class Heads:
    """The table of the owners' heads, and the statements on it.

    Args:
        table: the table of the heads.
        with_state: whether the table has the state of an owner, which is then read too.

    Attributes:
        columns: what is read of a head, in the order of Head.
        of_owner: the select of the owner's head.
    """

    def __init__(self, table: Table, with_state: bool = False) -> None:
        owner, clock = bindparam(_OWNER, type_=table.c.owner.type), table.c.logical_clock
        self.table = table
        self.columns = (clock, table.c.state) if with_state else (clock,)
        self.of_owner = of_owner = select(*self.columns).where(table.c.owner == owner)
        locked = of_owner.with_for_update()
        self.read = Prepared(of_owner)
        self.lock = Prepared(locked)
        # PostgreSQL computes the selected values before it waits for the row.
        self.lock_on_postgresql = Prepared(
            locked.add_columns(_SET_LOCK_TIMEOUT, _PLAN_FOR_EACH_STATEMENT)
        )
        self.lock_on_mysql = Prepared(locked.add_columns(literal_column(_READ_ONLY)))
        self.set = Prepared(
            update(table)
            .where(table.c.owner == owner)
            .values(logical_clock=bindparam(_CLOCK, type_=clock.type))
        )


def lock_owner(
    connection: Connection, heads: Heads, log: Table, owner_id: str, timeout_s: float
) -> Head:
    """Lock an owner until the transaction ends.

    Args:
        connection: in a transaction that has not read anything yet.
        heads: the owners' heads.
        log: the log; a missing head is made from it.
        owner_id: the owner to lock.
        timeout_s: seconds to wait, within ``waiting``.

    Raises:
        UnavailableError: the server is a replica of MariaDB or MySQL.
        sqlalchemy.exc.DBAPIError: for example if the wait was too long: ``Kind.LOCKED``,
            ``is_sqlite_busy()``.
    """
    if connection.dialect.name == "sqlite":
        _begin_immediate(connection, heads.table, owner_id)
    head = _lock_head(connection, heads, owner_id, timeout_s)
    if head is None:
        return make_and_lock_head(connection, heads, log, owner_id, timeout_s)
    return head


def make_and_lock_head(
    connection: Connection, heads: Heads, log: Table, owner_id: str, timeout_s: float
) -> Head:
    """The same as lock_owner(), in a transaction that found no head of the owner."""
    _make_head(connection, heads.table, log, owner_id, timeout_s)
    head = _lock_head(connection, heads, owner_id, timeout_s)
    if head is None:
        raise RuntimeError(f"{heads.table.name!r} does not keep the head of {owner_id!r}")
    return head


def make_empty_head(connection: Connection, heads: Heads, owner_id: str) -> None:
    """Make an owner's head if it is missing, so that a lock in a transaction of the app's meets a
    row.

    At REPEATABLE READ, MariaDB and MySQL lock the gap where a row is missing, for any number of
    transactions. Each of them would then wait for the others to insert the row. Nothing is read
    here, because then all later reads would see only what was committed before the lock.
    """
    if is_mysql(connection.dialect):
        _insert_on_mysql(connection, heads.table, {"owner": owner_id, "logical_clock": -1})


def read_head(connection: Connection, heads: Heads, owner_id: str) -> Head | None:
    """An owner's head, as this transaction sees it; None if there is none."""
    statement, values = head_select(heads, owner_id)
    row = statement.execute(connection, values).first()
    return None if row is None else Head(*row)


def head_select(heads: Heads, owner_id: str) -> tuple[Prepared, dict[str, Any]]:
    """The statement that reads an owner's head, and its values."""
    return heads.read, {_OWNER: owner_id}


@contextmanager
def reading_current(connection: Connection) -> Iterator[Callable[[], None]]:
    """Yield a function that lets all reads of the transaction see what is committed by now.

    On MariaDB and MySQL, a transaction at REPEATABLE READ keeps reading the rows as of its first
    read. But a read that locks its rows sees the current ones.
    """

    def begin() -> None:
        event.listen(connection, "before_execute", _share, retval=True)

    try:
        yield begin
    finally:
        if event.contains(connection, "before_execute", _share):
            event.remove(connection, "before_execute", _share)


def _share(
    connection: Connection, statement: Any, rows: Any, values: Any, options: Any
) -> tuple[Any, Any, Any]:
    is_plain = isinstance(statement, Select) and statement._for_update_arg is None
    if is_plain and not options.get(READS_OWN_ROWS):
        statement = statement.with_for_update(read=True)
    return statement, rows, values


def _lock_head(
    connection: Connection, heads: Heads, owner_id: str, timeout_s: float
) -> Head | None:
    statement, values = lock_statement(connection, heads, owner_id, timeout_s)
    row = statement.execute(connection, values).first()
    return None if row is None else head_of(connection, heads, row)


def lock_statement(
    connection: Connection, heads: Heads, owner_id: str, timeout_s: float
) -> tuple[Prepared, dict[str, Any]]:
    """The statement that locks an owner's head, and its values."""
    if connection.dialect.name == "postgresql":
        values = {_OWNER: owner_id, _SETTING: _milliseconds(timeout_s)}
        return heads.lock_on_postgresql, values
    lock = heads.lock_on_mysql if is_mysql(connection.dialect) else heads.lock
    return lock, {_OWNER: owner_id}


def head_of(connection: Connection, heads: Heads, row: Sequence[Any]) -> Head:
    """The head from the row of the lock's statement.

    Raises:
        UnavailableError: the server is a replica of MariaDB or MySQL.
    """
    columns = len(heads.columns)
    if is_mysql(connection.dialect) and str(row[columns]) not in ("0", "OFF"):
        # A replica of MariaDB or MySQL locks a row even if it lags; a replica of PostgreSQL
        # refuses.
        connection.invalidate()
        raise UnavailableError("the database is a replica, which may be behind: it is read_only")
    return Head(*row[:columns])


def _make_head(
    connection: Connection, heads: Table, log: Table, owner_id: str, timeout_s: float
) -> None:
    """Insert an owner's head, unless somebody else does so at the same time."""
    if connection.dialect.name == "postgresql":  # no row was there to set it by
        connection.execute(
            select(_SET_LOCK_TIMEOUT, _PLAN_FOR_EACH_STATEMENT),
            {_SETTING: _milliseconds(timeout_s)},
        )
    highest = connection.scalar(
        select(func.max(log.c.logical_clock)).where(log.c.owner == owner_id)
    )
    row = {"owner": owner_id, "logical_clock": -1 if highest is None else highest}
    if connection.dialect.name == "sqlite":
        connection.execute(sqlite.insert(heads).values(row).on_conflict_do_nothing())
    elif connection.dialect.name == "postgresql":
        connection.execute(postgresql.insert(heads).values(row).on_conflict_do_nothing())
    else:
        _insert_on_mysql(connection, heads, row)


def _insert_on_mysql(connection: Connection, heads: Table, row: dict[str, Any]) -> None:
    # IGNORE would leave a shared lock on an existing row.
    statement = mysql.insert(heads).values(row)
    connection.execute(statement.on_duplicate_key_update(owner=heads.c.owner))


def head_update(heads: Heads, owner_id: str, clock: int) -> tuple[Prepared, dict[str, Any]]:
    """The statement that stores the highest clock of the locked owner, and its values."""
    return heads.set, {_OWNER: owner_id, _CLOCK: clock}


# ---- how long to wait ---------------------------------------------------------------------------


def waiting(connection: Connection, timeout_s: float) -> AbstractContextManager[None]:
    """Limit each wait for a lock, of the owner or of a row, to some seconds.

    The earlier setting is restored at the end. On PostgreSQL there is nothing to do here: the
    statement of the owner's lock sets the limit until the end of the transaction.
    """
    return _WAITING[connection.dialect.name](connection, timeout_s)


def _milliseconds(timeout_s: float) -> str:
    return f"{max(1, math.ceil(timeout_s * 1000))}ms"


@contextmanager
def _mysql_lock_timeout(connection: Connection, timeout_s: float) -> Iterator[None]:
    settings = mysql_settings(connection)
    wanted = {"innodb_lock_wait_timeout": str(max(1, math.ceil(timeout_s)))}
    if settings is not None and settings.is_galera:
        # The lock is the first statement, and waits until this node has everything that other nodes
        # have committed.
        wanted["wsrep_sync_wait"] = f"@@SESSION.wsrep_sync_wait | {_SYNC_BEFORE_READS}"
    if settings is not None and settings.locks_its_snapshot_only:
        wanted["innodb_snapshot_isolation"] = "OFF"  # the app may have read already: read_current()
    connection.exec_driver_sql(
        "SET "
        + ", ".join(
            f"@mobync_{name} = @@SESSION.{name}, SESSION {name} = {value}"
            for name, value in wanted.items()
        )
    )
    set_back = "SET " + ", ".join(f"SESSION {name} = @mobync_{name}" for name in wanted)
    try:
        yield
    except BaseException:
        if not connection.invalidated:
            with _or_invalidated(connection):  # as after a packet that was too large
                connection.exec_driver_sql(set_back)
        raise
    connection.exec_driver_sql(set_back)


@contextmanager
def _sqlite_busy_timeout(connection: Connection, timeout_s: float) -> Iterator[None]:
    before = _pragma(connection, "busy_timeout")
    try:
        _pragma(connection, f"busy_timeout = {math.ceil(timeout_s * 1000)}")
        yield
    finally:
        if not connection.invalidated:
            with _or_invalidated(connection):
                _pragma(connection, f"busy_timeout = {before}")


def _pragma(connection: Connection, text: str) -> Any:
    """SQLite's answer to a pragma. SQLAlchemy does not see it, so it begins no transaction."""
    cursor = connection.connection.cursor()
    try:
        cursor.execute(f"PRAGMA {text}")
        row = cursor.fetchone()
    finally:
        cursor.close()
    return None if row is None else row[0]


@contextmanager
def _or_invalidated(connection: Connection) -> Iterator[None]:
    """Restore a setting. If a connection cannot, as that of a cancelled task, it is not used
    again."""
    try:
        yield
    except BaseException as error:
        connection.invalidate(error)
        if not isinstance(error, DBAPIError):
            raise


_WAITING: dict[str, Callable[[Connection, float], AbstractContextManager[None]]] = {
    "sqlite": _sqlite_busy_timeout,
    "postgresql": lambda connection, timeout_s: contextlib.nullcontext(),
    "mysql": _mysql_lock_timeout,
    "mariadb": _mysql_lock_timeout,
}


def _begin_immediate(connection: Connection, heads: Table, owner_id: str) -> None:
    """Take SQLite's write lock before the first read."""
    if _driver_connection(connection).in_transaction:
        # The app begins its transactions itself, by SQLAlchemy's recipe or autocommit=False.
        # A write as the first statement waits for the lock just as BEGIN IMMEDIATE does.
        connection.execute(
            update(heads).where(heads.c.owner == owner_id).values(owner=heads.c.owner)
        )
    else:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


# ---- reading without the lock -------------------------------------------------------------------


def single_statements(connection: Connection) -> None:
    """Let each read on a connection without a transaction be its own transaction.

    So PostgreSQL is not sent a BEGIN and a ROLLBACK around it. On SQLite the driver begins none for
    a read. On MariaDB and MySQL the switch costs more than it saves, but without it a read at
    SERIALIZABLE waits for writers.
    """
    name = connection.dialect.name
    if name != "postgresql" and not (is_mysql(connection.dialect) and _waits_to_read(connection)):
        return
    try:
        connection.execution_options(isolation_level="AUTOCOMMIT")
    except connection.dialect.loaded_dbapi.ProgrammingError:
        pass  # the app began a transaction when the connection left the pool
    except connection.dialect.loaded_dbapi.Error as error:
        connection._handle_dbapi_exception(error, None, None, None, None)  # raises SQLAlchemy's


def _waits_to_read(connection: Connection) -> bool:
    return connection.get_execution_options().get("isolation_level") == "SERIALIZABLE"


@contextmanager
def reading_one_moment(connection: Connection) -> Iterator[None]:
    """A transaction whose reads all see what was committed at its first read; it locks nothing."""
    name = connection.dialect.name
    if name != "sqlite":
        try:
            connection.execution_options(isolation_level="REPEATABLE READ")
        except connection.dialect.loaded_dbapi.Error as error:
            connection._handle_dbapi_exception(error, None, None, None, None)
    if name == "postgresql":
        connection.execution_options(postgresql_readonly=True)
    with connection.begin():
        if is_mysql(connection.dialect):
            connection.exec_driver_sql("START TRANSACTION READ ONLY")
        elif name == "postgresql":
            _SET_PLANNING.execute(connection, {})
        elif name == "sqlite" and not _driver_connection(connection).in_transaction:
            connection.exec_driver_sql("BEGIN")  # the driver begins none for a read
        yield


def _driver_connection(connection: Connection) -> Any:
    return connection.connection.driver_connection
