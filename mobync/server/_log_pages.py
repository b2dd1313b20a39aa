"""Reads owners and their logs in pieces of a bounded size, for the inspector.

Nothing here costs more on a long log than on a short one. A piece of the log is a range of clocks,
which the log's index finds. A filter also reads the entries that it leaves out. So a piece says how
far down it looked, and the next one continues from there.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import LargeBinary, Table, bindparam, cast, func, or_, select
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.sql import ColumnElement

from ..sqlalchemy._statements import same
from ._members import members_of, object_id_of

OWNERS = 50  # a page
ENTRIES = 100  # a page
ENTRY_BYTES = 4 * 1024 * 1024  # of json_data in a page, unless a single diff has more
FIRST_ROWS = 50  # of the log that one statement reads; the next one reads four times as many
STEP_ROWS = 1000  # at the most
STEPS = 20  # a page
SECONDS = 1.0  # after which a page takes no further step
SIZE_ROWS = 10_000  # measured at a time
LITERAL_CHARACTERS = 200  # of an object id that the database searches for


@dataclass(frozen=True)
class Owner:
    """An owner and the owner's logical clock."""

    owner_id: str
    logical_clock: int


@dataclass(frozen=True)
class Size:
    """The size of a piece of a log.

    Attributes:
        rows: how many diffs it has.
        bytes: the bytes of their seven fields, counted as in Mobync.compact.
        end_clock: the clock where the rest of the log begins.
        complete: whether there is no rest.
    """

    rows: int
    bytes: int
    end_clock: int
    complete: bool


@dataclass(frozen=True)
class Entry:
    """One diff of a log.

    Attributes:
        object_id: the ``id`` in json_data; None if it has none.
        size: bytes of json_data in UTF-8.
        members: the other members of json_data by name, each value as its text.
    """

    logical_clock: int
    diff_id: str
    utc_timestamp: int
    kind: str
    model: str
    object_id: str | None
    size: int
    members: dict[str, str]


@dataclass(frozen=True)
class Piece:
    """Entries of a log, the newest first.

    Attributes:
        entries: the entries that passed the filters.
        next_before: the clock down to which entries were looked at; None: to the first one.
    """

    entries: list[Entry]
    next_before: int | None


@dataclass(frozen=True)
class Only:
    """Which entries to look for.

    Attributes:
        model: of this model; None is any.
        object_id: of the object of this id; None is any.
        after: with a clock above this one.
    """

    model: str | None = None
    object_id: str | None = None
    after: int = -1


class LogPages:
    """The owners and logs of one database.

    Args:
        engine: the database.
        diffs: the log, with the columns and the unique index of ``diffs_table``.
        heads: the table of the owners' heads.
    """

    def __init__(self, engine: Engine, diffs: Table, heads: Table) -> None:
        self._engine = engine
        self._diffs = diffs.c
        self._heads = heads.c

    def owners(self, first: str, after: str | None = None) -> list[Owner]:
        """At most OWNERS owners in the database's order of their ids.

        Args:
            first: the id to begin at; it need not exist.
            after: the id to begin after, instead.
        """
        owner = self._heads.owner
        begin = owner >= first if after is None else owner > after
        page = select(owner, self._heads.logical_clock).where(begin).order_by(owner).limit(OWNERS)
        with self._engine.connect() as connection:
            return [Owner(name, highest + 1) for name, highest in connection.execute(page)]

    def logical_clock(self, owner_id: str) -> int:
        """The owner's logical clock: the highest in the log plus one."""
        with self._engine.connect() as connection:
            own = same_text(self._heads.owner, owner_id, connection)
            highest = connection.scalar(select(self._heads.logical_clock).where(own))
            if highest is None:
                highest = connection.scalar(
                    select(func.max(self._diffs.logical_clock)).where(
                        same_text(self._diffs.owner, owner_id, connection)
                    )
                )
        return 0 if highest is None else highest + 1

    def size(self, owner_id: str, first_clock: int) -> Size:
        """Measure an owner's log from a clock on: SIZE_ROWS diffs, or as many as SECONDS allow."""
        size = Size(0, 0, first_clock, False)
        rows = FIRST_ROWS
        stop_at = time.monotonic() + SECONDS
        with self._engine.connect() as connection:
            while True:
                rows = min(rows, SIZE_ROWS - size.rows)
                more = self._measure(connection, owner_id, size.end_clock, rows)
                size = Size(
                    size.rows + more.rows, size.bytes + more.bytes, more.end_clock, more.complete
                )
                if size.complete or size.rows == SIZE_ROWS or time.monotonic() >= stop_at:
                    return size
                rows *= 4

    def _measure(
        self, connection: Connection, owner_id: str, first_clock: int, most_rows: int
    ) -> Size:
        clock = self._diffs.logical_clock
        log = same_text(self._diffs.owner, owner_id, connection)
        next_clock = connection.scalar(
            select(clock)
            .where(log, clock >= first_clock)
            .order_by(clock)
            .offset(most_rows)
            .limit(1)
        )
        end = () if next_clock is None else (clock < next_clock,)
        texts = (self._diffs[name] for name in ("id", "owner", "type", "model", "json_data"))
        row_bytes: Any = sum((octets(text, connection) for text in texts), start=16)
        rows, bytes_, highest = connection.execute(
            select(func.count(), func.sum(row_bytes), func.max(clock)).where(
                log, clock >= first_clock, *end
            )
        ).one()
        end_clock = first_clock if highest is None else highest + 1
        return Size(rows, int(bytes_ or 0), end_clock, next_clock is None)

    def piece(self, owner_id: str, before: int | None, only: Only) -> Piece:
        """Look through an owner's log for entries, from the newest down.

        Args:
            owner_id: the owner of the log.
            before: look below this clock; None begins at the end of the log.
            only: which entries to look for.
        """
        found: list[Entry] = []
        room = ENTRY_BYTES
        rows = FIRST_ROWS
        stop_at = time.monotonic() + SECONDS
        with self._engine.connect() as connection:
            for _ in range(STEPS):
                most = rows if only.object_id is not None else ENTRIES - len(found)
                floor = self._step_down(connection, owner_id, before, only.after, rows)
                entries, rest_below = self._fetch(
                    connection,
                    [*self._of_model(connection, owner_id, only), *self._between(floor, before)],
                    only,
                    most,
                    # Only after reading an entry is it certain that it belongs to the object.
                    room if only.object_id is None else ENTRY_BYTES,
                )
                before = floor if rest_below is None else rest_below
                for entry in entries:
                    if found and (len(found) == ENTRIES or entry.size > room):
                        return Piece(found, entry.logical_clock + 1)
                    found.append(entry)
                    room -= entry.size
                full = len(found) == ENTRIES or (rest_below is not None and only.object_id is None)
                if before is None or full or time.monotonic() >= stop_at:
                    break
                rows = min(rows * 4, STEP_ROWS)
        ended = before is None or before <= only.after + 1
        return Piece(found, None if ended else before)

    def entries_at(self, owner_id: str, clocks: Sequence[int], only: Only) -> Piece:
        """The entries of some clocks, the newest first, up to ENTRY_BYTES.

        Args:
            owner_id: the owner of the log.
            clocks: the clocks; at most a few hundred.
            only: entries of another model or object are left out.
        """
        with self._engine.connect() as connection:
            conditions = self._of_model(connection, owner_id, only)
            conditions.append(self._diffs.logical_clock.in_(clocks))
            return Piece(*self._fetch(connection, conditions, only, len(clocks), ENTRY_BYTES))

    def _step_down(
        self, connection: Connection, owner_id: str, before: int | None, after: int, rows: int
    ) -> int | None:
        """The clock some rows below ``before``; None if there are fewer above ``after``."""
        clock = self._diffs.logical_clock
        end = () if before is None else (clock < before,)
        return connection.scalar(
            select(clock)
            .where(same_text(self._diffs.owner, owner_id, connection), clock > after, *end)
            .order_by(clock.desc())
            .offset(rows - 1)
            .limit(1)
        )

    def _between(self, floor: int | None, before: int | None) -> list[Any]:
        clock = self._diffs.logical_clock
        begin = [] if floor is None else [clock >= floor]
        return begin if before is None else [*begin, clock < before]

    def _of_model(self, connection: Connection, owner_id: str, only: Only) -> list[Any]:
        """Conditions that all wanted entries meet and that need no reading of texts."""
        log = self._diffs
        conditions = [same_text(log.owner, owner_id, connection), log.logical_clock > only.after]
        if only.model is not None:
            conditions.append(same_text(log.model, only.model, connection))
        return conditions

    def _fetch(
        self,
        connection: Connection,
        conditions: Sequence[ColumnElement[bool]],
        only: Only,
        most_rows: int,
        most_bytes: int,
    ) -> tuple[list[Entry], int | None]:
        """Entries from the newest down, and the clock below which entries were not looked at.

        This reads no more text than fits a page. An entry that is larger than a page gets its own
        page.
        """
        log = self._diffs
        lowest, rest_below = self._reach(connection, conditions, most_rows, most_bytes)
        if lowest is None:
            return [], rest_below
        naming = () if only.object_id is None else (_may_name(log, only.object_id, connection),)
        rows = connection.execute(
            select(log.logical_clock, log.id, log.utc_timestamp, log.type, log.model, log.json_data)
            .where(*conditions, log.logical_clock >= lowest, *naming)
            .order_by(log.logical_clock.desc())
        )
        wanted = (
            row
            for row in rows
            if only.object_id is None or object_id_of(row.json_data) == only.object_id
        )
        return [_entry(*row) for row in wanted], rest_below

    def _reach(
        self,
        connection: Connection,
        conditions: Sequence[ColumnElement[bool]],
        most_rows: int,
        most_bytes: int,
    ) -> tuple[int | None, int | None]:
        """How far down a page reaches: its lowest clock, and below which clock there is more."""
        log = self._diffs
        lowest: int | None = None
        room = most_bytes
        sizes = connection.execute(
            select(log.logical_clock, octets(log.json_data, connection))
            .where(*conditions)
            .order_by(log.logical_clock.desc())
            .limit(most_rows + 1)
        )
        with sizes:  # SQLite reads a text to find its size, so this asks for no more than needed
            for taken, (clock, size) in enumerate(sizes):
                alone = lowest is None and most_bytes == ENTRY_BYTES
                if taken == most_rows or (size > room and not alone):
                    return lowest, int(clock) + 1
                lowest = int(clock)
                room -= size
        return lowest, None


def _may_name(log: Any, object_id: str, connection: Connection) -> ColumnElement[bool]:
    """Whether an entry may belong to an object: it contains the id, or an escape."""
    needle = f'"{object_id}"'[:LITERAL_CHARACTERS]
    find = func.strpos if connection.dialect.name == "postgresql" else func.instr
    return or_(*(find(log.json_data, text) > 0 for text in (needle, "\\")))


def same_text(column: ColumnElement[str], text: str, connection: Connection) -> ColumnElement[bool]:
    """The condition that a column has exactly this text, in any collation."""
    condition: ColumnElement[bool] = same(
        column, bindparam(None, text, column.type), connection.dialect
    )
    return condition


def octets(column: ColumnElement[str], connection: Connection) -> ColumnElement[int]:
    """The bytes of a text in UTF-8."""
    if connection.dialect.name == "sqlite":  # before 3.43 it has no octet_length
        return func.length(cast(column, LargeBinary))
    return func.octet_length(column)


def _entry(
    clock: int, diff_id: str, utc_timestamp: int, kind: str, model: str, json_data: str
) -> Entry:
    object_id, members = members_of(json_data)
    size = len(json_data.encode())
    return Entry(clock, diff_id, utc_timestamp, kind, model, object_id, size, members)
