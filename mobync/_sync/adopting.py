"""Adds rows that the app had before mobync to an owner's log, as creates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from operator import itemgetter
from typing import Any, NamedTuple

from .. import _core
from ..types import LOG_FIELDS, DiffDict, LogRow
from .attempts import OwnerLog, in_transaction, plain_answer
from .backend_edits import Operation, diffs_of, naming_rows, object_id
from .devices import begin_log

ADOPT_PIECE_ROWS = 1000

Row = Mapping[str, Any] | str


class AdoptedPiece(NamedTuple):
    """The result of adopting a piece of rows."""

    seen: int
    added: int
    accepted: int  # diffs of the log
    clock: int  # the owner's, afterwards
    last_id: str | None


def adopt_rows(
    server: _core.Mobync, owner_id: str, model: str, rows: Iterable[Row] | None
) -> Iterator[AdoptedPiece]:
    """Add rows of one model to an owner's log, a piece in each transaction.

    Args:
        server: the Mobync with the settings and locks.
        owner_id: the owner of the rows.
        model: the model of the rows.
        rows: the rows; with None, the Synchronizer reads each piece.

    Yields:
        The result of each piece, once it is committed.

    Raises:
        InvalidDiffError: a row is malformed, or there is no such model.
        BusyError: another transaction of this owner took too long.
    """
    alive = _LiveObjects(model)
    given = None if rows is None else iter(rows)
    seen, last_id = 0, None
    while True:
        taken = None if given is None else list(islice(given, ADOPT_PIECE_ROWS))
        now_ms = server._now_ms()
        adopt = partial(
            _adopt, now_ms=now_ms, alive=alive, rows=taken, after=last_id, seen_before=seen
        )
        piece = in_transaction(server, owner_id, adopt)
        yield piece
        seen += piece.seen
        last_id = piece.last_id
        if piece.seen < ADOPT_PIECE_ROWS:
            return


def _adopt(
    log: OwnerLog,
    now_ms: int,
    alive: _LiveObjects,
    rows: list[Row] | None,
    after: str | None,
    seen_before: int,
) -> AdoptedPiece:
    answer = log.store.create_many(alive.model, [])  # refused wherever a push would be refused
    plain_answer("create_many", answer)
    if rows is None:
        owned = log.store.owned_rows(log.owner_id, alive.model, after)
        rows = list(islice(plain_answer("owned_rows", owned), ADOPT_PIECE_ROWS))
    alive.follow(log)
    missing = alive.missing(rows)
    places = {object_id(row): place for place, row in enumerate(rows, seen_before)}
    with naming_rows(missing, [places[object_id(row)] for _, _, row in missing]):
        log_rows = log_rows_of(missing, log, now_ms, alive.next_clock)
    if log_rows:
        if alive.next_clock == 0:
            begin_log(log.store, log.owner_id)
        plain_answer("append_log", log.store.append_log(log.model, log_rows))
    return AdoptedPiece(
        seen=len(rows),
        added=sum(kind == "create" for kind, _, _ in missing),
        accepted=len(log_rows),
        clock=alive.next_clock + len(log_rows),
        last_id=object_id(rows[-1]) if rows else None,
    )


def creating(model: str, id_: str, row: Row, is_updated: bool) -> list[Operation]:
    """The diffs that add a row to a log that has no create of its object.

    A create that follows updates of the same life would reach devices as one more update. So a
    delete ends that life first.

    Args:
        model: of the row.
        id_: of the row.
        row: the row.
        is_updated: whether the log has updates of the object.
    """
    create: Operation = ("create", model, row)
    return [("delete", model, {"id": id_}), create] if is_updated else [create]


def log_rows_of(
    operations: Iterable[Operation], log: OwnerLog, now_ms: int, first_clock: int
) -> list[LogRow]:
    """The rows of the log for edits that the backend made at ``now_ms``.

    Raises:
        InvalidDiffError: an operation is malformed.
    """
    diffs = diffs_of(operations, log.owner_id, now_ms)
    return [log_row(diff, log, clock) for clock, diff in enumerate(diffs, first_clock)]


def log_row(diff: DiffDict, log: OwnerLog, clock: int) -> LogRow:
    """A diff as a row of the log; raises InvalidDiffError if it is malformed."""
    _core.check_diff(diff, log.model)
    row: LogRow = _values({**diff, "owner": log.owner_id, "logical_clock": clock})
    return row


_values = itemgetter(*LOG_FIELDS)


class _LiveObjects:
    """Which objects of one model an owner's log says are alive.

    If an object was edited before it was adopted, the log has only updates of it.
    """

    def __init__(self, model: str) -> None:
        self.model = model
        self.next_clock = 0  # how far the log has been followed
        self._created: set[str] = set()
        self._only_updated: set[str] = set()

    def follow(self, log: OwnerLog) -> None:
        """Read the part of the log that is new since ``next_clock``."""
        rows = log.read(self.next_clock)
        rows = rows if isinstance(rows, str | bytes) else list(rows)
        highest = _core.check_log(rows, log.owner_id, self.next_clock)
        for diff in _core.merge(rows, [])[1]:
            if diff["model"] != self.model:
                continue
            id_ = object_id(diff["json_data"])
            if diff["type"] == "update" and id_ not in self._created:
                self._only_updated.add(id_)
            else:
                self._only_updated.discard(id_)
            if diff["type"] == "create":
                self._created.add(id_)
            elif diff["type"] == "delete":
                self._created.discard(id_)
        head = log.highest_clock()  # the last rows may have been folded away
        self.next_clock = max(self.next_clock, highest + 1, 0 if head is None else head + 1)

    def missing(self, rows: Iterable[Row]) -> list[Operation]:
        """The diffs that add a row to the log if the log lacks its object, or has only a part."""
        new = {id_: row for row in rows if (id_ := object_id(row)) not in self._created}
        return [
            operation
            for id_, row in new.items()
            for operation in creating(self.model, id_, row, is_updated=id_ in self._only_updated)
        ]
