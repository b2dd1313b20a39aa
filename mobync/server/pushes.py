"""Which device made which edits of a log, and what it had seen of the log by then.

The log does not hold that.  For the person who asks how the edits of two devices met, the server
notes it beside the log: a row for each sync in which a device that names itself had an edit
accepted.  The edits of one sync have clocks that follow one another, so a row says it for all.

No sync waits for this.  A thread writes what has come up together; what cannot be written, or is
lost when a process is killed, is missing in the inspector's picture and nowhere else.
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
    Connection,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    bindparam,
    delete,
    insert,
    inspect,
    select,
)
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from .. import SyncReport
from ..sqlalchemy import create_tables
from ..sqlalchemy._tables import _OPTIONS, KEY_LENGTH

KEPT = 5000  # of an owner, the newest
MOST_WAITING = 10_000  # in the memory of a process; more are not noted
AT_ONCE = 500  # in one transaction
PAUSE_S = 0.5  # from one to the next
TRIM_AFTER = 200  # pushes of an owner

logger = logging.getLogger("mobync.server")


@dataclass(frozen=True)
class Push:
    """The edits of one sync of one device that went into the log.

    Attributes:
        first_clock: of the first of them.
        end_clock: above the last of them.
        device: what the device calls itself.
        seen_clock: the device had seen what has a lower clock.
    """

    first_clock: int
    end_clock: int
    device: str
    seen_clock: int


class Pushes:
    """The table of pushes, beside an owner's log.

    Args:
        engine: the database of the log.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
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
        """Note what a sync pushed, to be written soon; a listener for ``Mobync.listen``."""
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
        """Write what was noted so far; a failure is logged, and what failed is not kept."""
        with self._writing:
            while self._waiting:
                some = [self._waiting.popleft() for _ in range(min(AT_ONCE, len(self._waiting)))]
                try:
                    with self._engine.begin() as connection:
                        self._keep(connection, some)
                except SQLAlchemyError as error:
                    logger.warning("who pushed is not kept: %s", type(error).__name__)

    def _keep(self, connection: Connection, pushes: Sequence[tuple[str, Push]]) -> None:
        """Write rows in the place of those of the same clocks: the log may be a restored one."""
        columns = self.table.c
        rows = {(owner, push.first_clock): {"owner": owner, **vars(push)} for owner, push in pushes}
        of_same_clocks = delete(self.table).where(
            columns.owner == bindparam("of"),
            columns.first_clock >= bindparam("begin"),
            columns.first_clock < bindparam("end"),
        )
        places = [
            {"of": owner, "begin": push.first_clock, "end": push.end_clock}
            for owner, push in pushes
        ]
        connection.execute(of_same_clocks, places)
        connection.execute(insert(self.table), list(rows.values()))
        self._trim(connection, [owner for owner, _ in pushes])

    def _trim(self, connection: Connection, owners: Sequence[str]) -> None:
        """Drop the oldest of owners of whom much came up since that was done last."""
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
        """By clock the push that an edit came with, of those edits of which it is known."""
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
        """Drop all that is kept of an owner; the table may be missing."""
        if not inspect(self._engine).has_table(self.table.name):
            return
        with self._engine.begin() as connection:
            connection.execute(delete(self.table).where(self.table.c.owner == owner_id))

    def close(self) -> None:
        """Write what was noted, and nothing after that."""
        self._closed.set()
        self._something.set()
        self.write()
