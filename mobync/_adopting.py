"""Rows that the app had before mobync, brought into an owner's log as creates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from . import _core
from ._log import OwnerLog
from ._server_edits import Operation, diffs_of, naming_rows, object_id
from ._transactions import OwnerTransactions
from .types import DiffDict

ADOPT_PIECE_ROWS = 1000


class AdoptedPiece(NamedTuple):
    """What came of a piece of rows to adopt."""

    seen: int
    added: int
    accepted: int  # diffs of the log
    clock: int  # the owner's, afterwards
    last_id: str | None


class Adoption:
    """Rows of one model on their way into an owner's log, a piece in each transaction.

    Args:
        transactions: of the owner.
        model: the model that the rows are of.
        rows: the rows; None has the Synchronizer read each piece.
        now_ms: tells the server's time.

    Attributes:
        seen: rows looked at so far.
        added: those of them that were added to the log.
        is_done: whether there are no more.
    """

    def __init__(
        self,
        transactions: OwnerTransactions,
        model: str,
        rows: Iterable[Mapping[str, Any] | str] | None,
        now_ms: Callable[[], int],
    ) -> None:
        self.seen = 0
        self.added = 0
        self.is_done = False
        self._transactions = transactions
        self._rows = None if rows is None else iter(rows)
        self._now_ms = now_ms
        self._alive = LiveObjects(model)
        self._last_id: str | None = None

    def adopt_piece(self) -> AdoptedPiece:
        """Adopt the next rows.

        Raises:
            InvalidDiffError: a row is malformed, or there is no such model.
            BusyError: another transaction of this owner took too long.
        """
        rows = None if self._rows is None else list(islice(self._rows, ADOPT_PIECE_ROWS))
        piece = self._transactions.run(partial(self._adopt, rows=rows))
        self.seen += piece.seen
        self.added += piece.added
        self._last_id = piece.last_id
        self.is_done = piece.seen < ADOPT_PIECE_ROWS
        return piece

    def _adopt(self, log: OwnerLog, rows: list[Mapping[str, Any] | str] | None) -> AdoptedPiece:
        alive = self._alive
        log.store.create_many(alive.model, [])  # refused where a push would be
        if rows is None:
            owned = log.store.owned_rows(log.owner_id, alive.model, self._last_id)
            rows = list(islice(owned, ADOPT_PIECE_ROWS))
        logged = _core.Exchange([])
        highest = log.meet(logged, alive.next_clock)
        logged.merge()
        alive.follow(logged.downstream(), highest)
        missing = alive.missing(rows)
        places = {object_id(row): place for place, row in enumerate(rows, self.seen)}
        with naming_rows(missing, [places[object_id(row)] for _, _, row in missing]):
            diffs = diffs_of(missing, log.owner_id, self._now_ms())
            exchange = _core.Exchange(diffs, log.model)
        exchange.meet([])
        exchange.merge()
        *_, log_rows = exchange.operations(log.owner_id, alive.next_clock)
        if log_rows:
            log.store.create_many(log.model, log_rows)
        return AdoptedPiece(
            seen=len(rows),
            added=sum(kind == "create" for kind, _, _ in missing),
            accepted=len(log_rows),
            clock=alive.next_clock + len(log_rows),
            last_id=object_id(rows[-1]) if rows else None,
        )


class LiveObjects:
    """Which objects of one model an owner's log says are alive.

    Of some a log may know updates only: they were edited before they were adopted.

    Attributes:
        next_clock: how far the log has been followed.
    """

    def __init__(self, model: str) -> None:
        self.model = model
        self.next_clock = 0
        self._created: set[str] = set()
        self._only_updated: set[str] = set()

    def follow(self, downstream: Iterable[DiffDict], highest: int | None) -> None:
        """Take in what a device would be sent that had seen everything before ``next_clock``."""
        for diff in downstream:
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
        if highest is not None:
            self.next_clock = highest + 1

    def missing(self, rows: Iterable[Mapping[str, Any] | str]) -> list[Operation]:
        """What brings each row into the log whose object it has not, or not whole.

        A create that follows updates of the same life would reach the devices as one more update;
        so a delete ends that life first.
        """
        new = {id_: row for row in rows if (id_ := object_id(row)) not in self._created}
        operations: list[Operation] = []
        for id_, row in new.items():
            if id_ in self._only_updated:
                operations.append(("delete", self.model, {"id": id_}))
            operations.append(("create", self.model, row))
        return operations
