"""Reads owners and their logs in pieces of a bounded size, for the inspector.

Nothing here costs more on a long log than on a short one.  A piece of the log is a range of clocks,
which the log's index finds; what a filter leaves out of it has been read all the same, so a piece
says how far down it looked, and the next one goes on from there.
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
from ._members import Member, members_of

OWNERS = 50  # a page
ENTRIES = 100  # a page
ENTRY_BYTES = 4 * 1024 * 1024  # of json_data in a page, unless a single diff has more
STEP_ROWS = 1000  # of the log, looked at by one statement
STEPS = 20  # a page
SECONDS = 1.0  # after which a page takes no further step
SIZE_ROWS = 10_000  # measured by one statement
LITERAL_CHARACTERS = 200  # of an object id that the database is asked to look for


@dataclass(frozen=True)
class Owner:
    """An owner and the logical clock that a device of theirs would be told."""

    owner_id: str
    logical_clock: int


@dataclass(frozen=True)
class Size:
    """What a piece of a log measures.

    Attributes:
        rows: diffs in it.
        bytes: of the seven fields, counted as Mobync.compact does.
        end_clock: above the last of them; the rest of the log begins there.
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
        members: what json_data says besides ``id``, each value as its text.
    """

    logical_clock: int
    diff_id: str
    utc_timestamp: int
    kind: str
    model: str
    object_id: str | None
    size: int
    members: list[Member]


@dataclass(frozen=True)
class Piece:
    """Entries of a log, the newest first.

    Attributes:
        entries: those that passed the filters.
        next_before: every entry with a clock at or above it was looked at; None: all were.
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
        engine: where they are.
        diffs: the log, with the columns and the unique index that ``diffs_table`` gives it.
        heads: the table of the owners' heads beside it.
    """

    def __init__(self, engine: Engine, diffs: Table, heads: Table) -> None:
        self._engine = engine
        self._diffs = diffs.c
        self._heads = heads.c

    def owners(self, first: str, after: str | None = None) -> list[Owner]:
        """At most OWNERS owners in the database's order of their ids.

        Args:
            first: the id to begin at, or where it would stand.
            after: the id to begin behind, instead.
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
        """Measure at most SIZE_ROWS diffs of an owner's log from a clock on."""
        clock = self._diffs.logical_clock
        with self._engine.connect() as connection:
            log = same_text(self._diffs.owner, owner_id, connection)
            next_clock = connection.scalar(
                select(clock)
                .where(log, clock >= first_clock)
                .order_by(clock)
                .offset(SIZE_ROWS)
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
            owner_id: whose log.
            before: look below this clock; None begins at the end of the log.
            only: what to look for.
        """
        found: list[Entry] = []
        room = ENTRY_BYTES
        stop_at = time.monotonic() + SECONDS
        with self._engine.connect() as connection:
            for _ in range(STEPS):
                floor = self._step_down(connection, owner_id, before, only.after)
                conditions = self._matching(connection, owner_id, only)
                conditions += self._between(floor, before, only)
                # What may be of the object is known to be so only once it is read.
                most = ENTRIES - len(found) if only.object_id is None else STEP_ROWS
                rows, rest_below = self._fetch(connection, conditions, most, room)
                room -= sum(entry.size for entry in rows)
                found += _of_object(rows, only.object_id)
                before = floor if rest_below is None else rest_below
                if len(found) > ENTRIES:
                    found = found[:ENTRIES]
                    before = found[-1].logical_clock
                full = rest_below is not None or len(found) == ENTRIES
                if before is None or full or time.monotonic() >= stop_at:
                    break
        ended = before is None or before <= only.after + 1
        return Piece(found, None if ended else before)

    def entries_at(self, owner_id: str, clocks: Sequence[int], only: Only) -> Piece:
        """The entries of some clocks, the newest first, as far as ENTRY_BYTES reach.

        Args:
            owner_id: whose log.
            clocks: which; at most a few hundred.
            only: entries of another model or object are left out.
        """
        with self._engine.connect() as connection:
            conditions = self._matching(connection, owner_id, only)
            conditions.append(self._diffs.logical_clock.in_(clocks))
            rows, rest_below = self._fetch(connection, conditions, len(clocks), ENTRY_BYTES)
        return Piece(_of_object(rows, only.object_id), rest_below)

    def _step_down(
        self, connection: Connection, owner_id: str, before: int | None, after: int
    ) -> int | None:
        """The clock STEP_ROWS rows below ``before``; None if there are fewer above ``after``."""
        clock = self._diffs.logical_clock
        end = () if before is None else (clock < before,)
        return connection.scalar(
            select(clock)
            .where(same_text(self._diffs.owner, owner_id, connection), clock > after, *end)
            .order_by(clock.desc())
            .offset(STEP_ROWS - 1)
            .limit(1)
        )

    def _between(self, floor: int | None, before: int | None, only: Only) -> list[Any]:
        clock = self._diffs.logical_clock
        begin = clock > only.after if floor is None else clock >= floor
        return [begin] if before is None else [begin, clock < before]

    def _matching(self, connection: Connection, owner_id: str, only: Only) -> list[Any]:
        """Conditions that every entry meets that is looked for, and few others."""
        log = self._diffs
        conditions = [same_text(log.owner, owner_id, connection)]
        if only.model is not None:
            conditions.append(same_text(log.model, only.model, connection))
        if only.object_id is not None:
            # An id stands in the JSON as it is, unless something in it is escaped.
            literally = log.json_data.contains(only.object_id[:LITERAL_CHARACTERS], autoescape=True)
            escaped = log.json_data.contains("\\", autoescape=True)
            conditions.append(or_(literally, escaped))
        return conditions

    def _fetch(
        self,
        connection: Connection,
        conditions: Sequence[ColumnElement[bool]],
        most_rows: int,
        most_bytes: int,
    ) -> tuple[list[Entry], int | None]:
        """Rows from the newest down that have room, and below which clock there are more.

        One that alone takes more than a page has gets a page of its own.
        """
        log = self._diffs
        sizes = connection.execute(
            select(log.logical_clock, octets(log.json_data, connection))
            .where(*conditions)
            .order_by(log.logical_clock.desc())
            .limit(most_rows + 1)
        ).all()
        if not sizes:
            return [], None
        taken: list[int] = []
        room = most_bytes
        for clock, size in sizes[:most_rows]:
            if size > room and (taken or most_bytes < ENTRY_BYTES):
                break
            taken.append(clock)
            room -= size
        if not taken:
            return [], int(sizes[0].logical_clock) + 1
        rows = connection.execute(
            select(log.logical_clock, log.id, log.utc_timestamp, log.type, log.model, log.json_data)
            .where(*conditions, log.logical_clock.in_(taken))
            .order_by(log.logical_clock.desc())
        )
        return [_entry(*row) for row in rows], taken[-1] if len(taken) < len(sizes) else None


def _of_object(entries: list[Entry], object_id: str | None) -> list[Entry]:
    return [entry for entry in entries if object_id in (None, entry.object_id)]


def same_text(column: ColumnElement[str], text: str, connection: Connection) -> ColumnElement[bool]:
    """The condition that a column holds just this text, whatever its collation."""
    condition: ColumnElement[bool] = same(
        column, bindparam(None, text, column.type), connection.dialect
    )
    return condition


def octets(column: ColumnElement[str], connection: Connection) -> ColumnElement[int]:
    """Bytes of a text in UTF-8."""
    if connection.dialect.name == "sqlite":  # before 3.43 it has no octet_length
        return func.length(cast(column, LargeBinary))
    return func.octet_length(column)


def _entry(
    clock: int, diff_id: str, utc_timestamp: int, kind: str, model: str, json_data: str
) -> Entry:
    object_id, members = members_of(json_data)
    size = len(json_data.encode())
    return Entry(clock, diff_id, utc_timestamp, kind, model, object_id, size, members)
