"""The device's SQLite file, and the one way to change it: a transaction for each step.

A device can be killed at any moment. So things that belong together are written together: an edit
and its entry in the outbox, the rows of a reply and its clock. After a kill, the file is as it was
before the step or as it is after it.
"""

from __future__ import annotations

import sqlite3
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto
from pathlib import Path
from typing import Any, NamedTuple

FORMAT = 3
BUSY_TIMEOUT_S = 30  # another process of the device may be in a transaction

# mobync_state has one row. `turn` counts answered and changed requests, so that a late reply to an
# earlier request is recognized. `cursor` belongs to the page that was applied last. `device`,
# `request` and `mark` name the device and its request (docs/protocol.md, "Named devices"). `upload`
# is the name of the parts of the open request.
SCHEMA = f"""
CREATE TABLE mobync_state (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    format INTEGER NOT NULL,
    logical_clock INTEGER NOT NULL,
    turn INTEGER NOT NULL,
    cursor TEXT,
    starts_over INTEGER NOT NULL,
    device TEXT NOT NULL,
    request INTEGER NOT NULL,
    mark TEXT,
    upload TEXT
);
INSERT INTO mobync_state VALUES (1, {FORMAT}, 0, 1, NULL, 0, '', 1, NULL, NULL);
CREATE TABLE mobync_rows (
    model TEXT NOT NULL, id TEXT NOT NULL, data TEXT NOT NULL, PRIMARY KEY (model, id)
) WITHOUT ROWID;
CREATE TABLE mobync_base (
    model TEXT NOT NULL, id TEXT NOT NULL, data TEXT, PRIMARY KEY (model, id)
) WITHOUT ROWID;
CREATE TABLE mobync_outbox (
    place INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    utc_timestamp INTEGER NOT NULL,
    type TEXT NOT NULL,
    model TEXT NOT NULL,
    object_id TEXT NOT NULL,
    json_data TEXT NOT NULL,
    sent INTEGER NOT NULL
);
CREATE TABLE mobync_refused (
    place INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL,
    code TEXT NOT NULL,
    message TEXT NOT NULL,
    type TEXT NOT NULL,
    model TEXT NOT NULL,
    json_data TEXT NOT NULL
);
"""


# A device without a name takes one, and continues with its rows and its clock.
FROM_FORMAT_1 = """
ALTER TABLE mobync_state RENAME COLUMN request TO turn;
ALTER TABLE mobync_state ADD COLUMN device TEXT NOT NULL DEFAULT '';
ALTER TABLE mobync_state ADD COLUMN request INTEGER NOT NULL DEFAULT 1;
ALTER TABLE mobync_state ADD COLUMN mark TEXT;
"""

FROM_FORMAT_2 = f"""
ALTER TABLE mobync_state ADD COLUMN upload TEXT;
UPDATE mobync_state SET format = {FORMAT};
"""

# A mobync that does not know this index can read the file too.
OUTBOX_BY_OBJECT = """
CREATE INDEX IF NOT EXISTS mobync_outbox_by_object
ON mobync_outbox (model, object_id, utc_timestamp)
"""


class ForeignKeys(Enum):
    """When the foreign keys of the app's tables are checked in a transaction."""

    AT_ONCE = auto()  # an edit of the user
    AT_THE_END = auto()  # a reply: it may refer to a row before it creates it
    NOT_YET = auto()  # a page: a row that it refers to may come with a later page
    ALL_AT_THE_END = auto()  # the last page: every row, since earlier pages were not checked


class State(NamedTuple):
    """The state of a device between its syncs.

    Attributes:
        logical_clock: the clock of the last reply that was applied.
        turn: counts the requests that were answered or changed.
        cursor: the cursor for the next page; None between pulls.
        starts_over: whether all rows must be pulled again.
        device: the name of the device.
        request: the number of the open request with diffs, or of the next one.
        mark: the mark of the last reply; None if the server gave none.
        upload: the name of the parts of the open request; None: it is sent as a whole, or no part
            was sent yet.
    """

    logical_clock: int
    turn: int
    cursor: str | None
    starts_over: bool
    device: str
    request: int
    mark: str | None
    upload: str | None = None

    def renamed(self) -> State:
        """The state of a new device, unknown to the server."""
        return self._replace(device=new_name(), request=1, mark=None)


class Database:
    """One connection to the file. Its transactions exclude each other, also those of several
    threads.

    Args:
        path: the path of the file; ``:memory:`` for no file.
        tables: SQL that makes the app's own tables (see :class:`Device`).

    Raises:
        ValueError: a later version of mobync made the file, or the tables cannot hold rows.
        sqlite3.Error: the file is not a database, or the SQL is wrong.
    """

    def __init__(self, path: str | Path, tables: str) -> None:
        self._lock = threading.RLock()
        try:
            self.connection = sqlite3.connect(
                path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            try:
                self._make(tables)
            except BaseException:
                self.connection.close()
                raise
        except sqlite3.Error as error:
            raise type(error)(f"{path}: {error}") from error

    def _make(self, tables: str) -> None:
        self.execute("PRAGMA journal_mode = WAL")
        self.execute("PRAGMA foreign_keys = ON")
        with self.transaction():
            if not self.execute("SELECT 1 FROM sqlite_master WHERE name = 'mobync_state'"):
                self._execute_all(SCHEMA)
            ((found,),) = self.execute("SELECT format FROM mobync_state")
            if found == 1:
                self._execute_all(FROM_FORMAT_1)
            if found in (1, 2):
                self._execute_all(FROM_FORMAT_2)
            if found <= FORMAT:
                self.execute(OUTBOX_BY_OBJECT)
            state = None if found > FORMAT else self.state()
            if state is not None and not state.device:
                self.set_state(state.renamed())
        if found > FORMAT:
            raise ValueError(f"the device's file has format {found}, this mobync reads {FORMAT}")
        self.connection.executescript(tables)

    def _execute_all(self, script: str) -> None:
        for statement in script.split(";\n"):
            self.execute(statement)

    def execute(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Run one statement and fetch all its rows."""
        with self._lock:
            return self.connection.execute(sql, parameters).fetchall()

    @contextmanager
    def transaction(self, foreign_keys: ForeignKeys = ForeignKeys.AT_ONCE) -> Iterator[None]:
        """Commit the changes inside the ``with``, or none of them if anything raises.

        Raises:
            sqlite3.IntegrityError: a row refers to a missing row.
        """
        unchecked = foreign_keys in (ForeignKeys.NOT_YET, ForeignKeys.ALL_AT_THE_END)
        with self._lock:
            if unchecked:
                self.execute("PRAGMA foreign_keys = OFF")
            self.execute("BEGIN IMMEDIATE")
            try:
                if foreign_keys is ForeignKeys.AT_THE_END:
                    self.execute("PRAGMA defer_foreign_keys = ON")
                yield
                if foreign_keys is ForeignKeys.ALL_AT_THE_END:
                    self._check_all_foreign_keys()
                self.execute("COMMIT")
            finally:
                if self.connection.in_transaction:
                    self.execute("ROLLBACK")
                if unchecked:
                    self.execute("PRAGMA foreign_keys = ON")

    def _check_all_foreign_keys(self) -> None:
        for table, rowid, parent, _ in self.execute("PRAGMA foreign_key_check"):
            raise sqlite3.IntegrityError(
                f"FOREIGN KEY constraint failed: row {rowid} of {table} refers to a row of "
                f"{parent} that does not exist"
            )

    def state(self) -> State:
        ((clock, turn, cursor, starts_over, *named),) = self.execute(
            "SELECT logical_clock, turn, cursor, starts_over, device, request, mark, upload"
            " FROM mobync_state"
        )
        return State(clock, turn, cursor, bool(starts_over), *named)

    def set_state(self, state: State) -> None:
        self.execute(
            "UPDATE mobync_state SET logical_clock = ?, turn = ?, cursor = ?, starts_over = ?,"
            " device = ?, request = ?, mark = ?, upload = ?",
            tuple(state),
        )

    def close(self) -> None:
        """Close the file when no transaction is running."""
        with self._lock:
            self.connection.close()


def new_name() -> str:
    """A name that no device has or had."""
    return str(uuid.uuid4())
