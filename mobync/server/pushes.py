"""Which device made which edits of a log, and how much of the log it had seen.

The log does not say this. The server stores it in another table, for people who ask how the edits
of two devices met: a row for each sync in which it accepted an edit of a named device. The edits of
one sync have consecutive clocks, so one row is enough for all.

No sync waits for this. A thread writes the collected rows. If rows cannot be written, or are lost
when a process is killed, only the inspector's picture lacks them.
"""

from __future__ import annotations

import logging
import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Insert,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    bindparam,
    delete,
    inspect,
    select,
)
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from .. import SyncReport
from .._waiting import IN_A_THREAD, RETRY_PAUSES_S, about
from ..sqlalchemy import SQLAlchemySynchronizer, create_tables
from ..sqlalchemy._errors import Kind, is_sqlite_busy, kind_of
from ..sqlalchemy._tables import _OPTIONS, KEY_LENGTH
from ._inserting import insert_from, value_of, values_for
from .lost import LostEdits

KEPT = 5000  # of an owner, the newest
MOST_WAITING = 10_000  # in the memory of a process; more are not stored
AT_ONCE = 500  # in one transaction
PAUSE_S = 0.5  # from one to the next
TRIM_AFTER = 200  # pushes of an owner

# Another process was in the way: it locked a row, or has just inserted the same clocks.
_PASSING = (Kind.CONFLICT, Kind.LOCKED, Kind.VIOLATION)

logger = logging.getLogger("mobync.server")


@dataclass(frozen=True)
class Push:
    """The edits of one sync of one device that went into the log.

    Attributes:
        first_clock: the clock of the first of them.
        end_clock: the clock after the last of them.
        device: the name of the device.
        seen_clock: the device had seen the log below this clock.
    """

    first_clock: int
    end_clock: int
    device: str
    seen_clock: int


class Pushes:
    """The table of pushes.

    Args:
        engine: the database of the log.
        devices: the table of devices, as ``mobync.sqlalchemy.diffs_table`` declares it.
    """

    def __init__(self, engine: Engine, devices: Table) -> None:
        self._engine = engine
        # At REPEATABLE READ a delete that finds nothing locks a gap on MariaDB, and two processes
        # that then insert into it wait for each other.
        level = {} if engine.dialect.name == "sqlite" else {"isolation_level": "READ COMMITTED"}
        self._writer = engine.execution_options(**level)
        self._devices = devices.c
        self._metadata = MetaData()
        self.table = Table(
            "diffs_pushed",
            self._metadata,
            Column("owner", String(KEY_LENGTH), nullable=False),
            Column("first_clock", BigInteger, nullable=False),
            Column("end_clock", BigInteger, nullable=False),
            Column("device", String(KEY_LENGTH), nullable=False),
            Column("seen_clock", BigInteger, nullable=False),
            PrimaryKeyConstraint("owner", "first_clock"),
            **_OPTIONS,
        )
        self._waiting: deque[tuple[str, Push]] = deque()
        self._writing = threading.Lock()
        self._something = threading.Event()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._since_trim: dict[str, int] = {}

    def make(self) -> None:
        """Make the table, if it is missing."""
        create_tables(self._engine, self._metadata)

    def note(self, report: SyncReport) -> None:
        """Note the push of a sync, to write it soon; a listener for ``Mobync.listen``."""
        if report.device is None or not report.accepted or report.reset:
            return
        if len(self._waiting) >= MOST_WAITING:
            return
        end = report.logical_clock
        push = Push(end - report.accepted, end, report.device, report.seen_clock)
        self._waiting.append((report.owner_id, push))
        if self._thread is None:
            self._begin()
        self._something.set()

    def _begin(self) -> None:
        with self._writing:
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._write_on, daemon=True)
                self._thread.start()

    def _write_on(self) -> None:
        while not self._closed.is_set():
            self._something.wait()
            self._something.clear()
            self.write()
            self._closed.wait(PAUSE_S)

    def write(self) -> None:
        """Write the noted pushes. An error is logged, and these pushes are dropped."""
        with self._writing:
            while self._waiting:
                some = [self._waiting.popleft() for _ in range(min(AT_ONCE, len(self._waiting)))]
                try:
                    self._write_some(some)
                except SQLAlchemyError as error:
                    logger.warning("pushes are not stored: %s", type(error).__name__)

    def _write_some(self, pushes: Sequence[tuple[str, Push]]) -> None:
        """Write some pushes; again, if another process was in the way."""
        pauses_s = iter(RETRY_PAUSES_S)
        while True:
            try:
                with self._writer.begin() as connection:
                    self._keep(connection, pushes)
                with self._writer.begin() as connection:
                    self._drop_unknown(connection, pushes)
                return
            except SQLAlchemyError as error:
                pause_s = next(pauses_s, None)
                if pause_s is None or not (is_sqlite_busy(error) or kind_of(error) in _PASSING):
                    raise
                IN_A_THREAD.sleep(about(pause_s))

    def _keep(self, connection: Connection, pushes: Sequence[tuple[str, Push]]) -> None:
        """Write rows in place of rows with the same clocks: the log may have been restored."""
        columns = self.table.c
        rows = {(owner, push.first_clock): {"owner": owner, **vars(push)} for owner, push in pushes}
        of_same_clocks = delete(self.table).where(
            columns.owner == bindparam("of"),
            columns.first_clock >= bindparam("begin"),
            columns.first_clock < bindparam("end"),
        )
        in_order = sorted(pushes, key=lambda each: (each[0], each[1].first_clock))
        places = [
            {"of": owner, "begin": push.first_clock, "end": push.end_clock}
            for owner, push in in_order
        ]
        connection.execute(of_same_clocks, places)
        in_turn = [values_for(rows[place]) for place in sorted(rows)]
        connection.execute(self._insert_of_known(), in_turn)
        self._trim(connection, [owner for owner, _ in pushes])

    def _insert_of_known(self) -> Insert:
        """Inserts the push of a device that may still sync.  The owner may have been erased, or
        given to another, since the push was noted."""
        return insert_from(
            self.table,
            self._devices.owner == value_of(self.table.c.owner),
            self._devices.device == value_of(self.table.c.device),
            *self._may_sync(),
        )

    def _drop_unknown(self, connection: Connection, pushes: Sequence[tuple[str, Push]]) -> None:
        """Drop what was inserted while the owner was erased: the erasing has not seen it."""
        columns, devices = self.table.c, self._devices
        owners, names = zip(*{(owner, push.device) for owner, push in pushes}, strict=True)
        known = select(devices.owner, devices.device).where(
            devices.owner.in_(owners), devices.device.in_(names), *self._may_sync()
        )
        found = set(map(tuple, connection.execute(known)))
        gone = [
            {"of": owner, "begin": push.first_clock}
            for owner, push in pushes
            if (owner, push.device) not in found
        ]
        if gone:
            at = columns.owner == bindparam("of"), columns.first_clock == bindparam("begin")
            connection.execute(delete(self.table).where(*at), gone)

    def _may_sync(self) -> list[ColumnElement[bool]]:
        state = self._devices.state
        return [state.not_like(f'%"{why}": true%') for why in ("revoked", "left")]

    def _trim(self, connection: Connection, owners: Sequence[str]) -> None:
        """Drop the oldest rows of owners who had many pushes since the last time."""
        if len(self._since_trim) > MOST_WAITING:
            self._since_trim.clear()
        for owner in owners:
            self._since_trim[owner] = self._since_trim.get(owner, 0) + 1
        for owner in set(owners):
            if self._since_trim[owner] >= TRIM_AFTER:
                self._since_trim[owner] = 0
                self._drop_oldest(connection, owner)

    def _drop_oldest(self, connection: Connection, owner_id: str) -> None:
        columns = self.table.c
        of_owner = columns.owner == owner_id
        newest_first = select(columns.first_clock).where(of_owner)
        newest_first = newest_first.order_by(columns.first_clock.desc())
        limit = connection.scalar(newest_first.offset(KEPT).limit(1))
        if limit is not None:
            connection.execute(delete(self.table).where(of_owner, columns.first_clock <= limit))

    def of(self, owner_id: str, clocks: Iterable[int]) -> dict[int, Push]:
        """The push of each edit, by its clock, where it is known."""
        wanted = sorted(clocks)
        if not wanted:
            return {}
        self.write()
        columns = self.table.c
        between = select(*columns).where(
            columns.owner == owner_id,
            columns.first_clock <= wanted[-1],
            columns.end_clock > wanted[0],
        )
        found: dict[int, Push] = {}
        with self._engine.connect() as connection:
            for row in connection.execute(between.order_by(columns.first_clock)):
                push = Push(row.first_clock, row.end_clock, row.device, row.seen_clock)
                begin, end = (bisect_left(wanted, at) for at in (push.first_clock, push.end_clock))
                found |= dict.fromkeys(wanted[begin:end], push)
        return found

    def erase(self, owner_id: str) -> None:
        """Delete the pushes of an owner; the table may be missing."""
        if not inspect(self._engine).has_table(self.table.name):
            return
        with self._engine.begin() as connection:
            connection.execute(delete(self.table).where(self.table.c.owner == owner_id))

    def close(self) -> None:
        """Write the noted pushes, and stop."""
        self._closed.set()
        self._something.set()
        self.write()


def beside_log(engine: Engine, store: SQLAlchemySynchronizer) -> tuple[LostEdits, Pushes]:
    """What the server, or the inspector of an app, stores beside the log of a store.

    Args:
        engine: the database.
        store: that declares the log and the devices.
    """
    log, devices = store._log.table, store._devices.table
    return LostEdits(engine, log), Pushes(engine, devices)
