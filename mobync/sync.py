"""One sync from the request to the reply: the order of docs/protocol.md, "Around the merge"."""

from __future__ import annotations

import json
import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast

from . import _core
from ._adopting import Adoption
from ._arguments import check_count, check_text, read_clock
from ._compacting import compact_log
from ._log import OwnerLog
from ._paging import Page, meet_page, read_page, write_cursor
from ._refusals import RefusedDiff, history_of, restored_downstream
from ._rules import Rules
from ._server_edits import Operation, push_operations
from ._transactions import OwnerTransactions
from ._writing import Writing
from .errors import InvalidDiffError, LogicalClockError, shown
from .synchronizer import Synchronizer
from .types import (
    MAX_LOGICAL_CLOCK,
    CompactResult,
    DiffDict,
    MergeResult,
    PlainReply,
    Reply,
    SyncReport,
)

logger = logging.getLogger("mobync")

MAX_JSON_DATA_BYTES = 256 * 1024 * 1024  # what the core takes
MAX_DEPTH = 1000  # what cJSON is built for

MOST_TRIES = 100  # after the first, to leave out what a try found that does not fit

Listener = Callable[[SyncReport], object]


class Mobync:
    """The server half of mobync over one :class:`Synchronizer`.

    One object serves any number of threads.

    Args:
        synchronizer: the app's database and rules.
        diffs_model_name: the name under which the synchronizer keeps the log.
        max_clock_skew_ms: milliseconds that a device's clock may be ahead of the server's before
            its timestamps count as the server's time.
        lock_timeout_s: seconds to wait for another sync of the same owner.
        max_diffs: diffs that one request may hold.
        max_json_data_bytes: bytes of UTF-8 that one diff's ``json_data`` may have.
        max_depth: levels to which it may be nested; 1000 at the most.
        on_refusal: 'raise' lets one diff that a rule refuses end the whole sync.  'skip' leaves
            it out, and what depends on it; the reply lists it as ``refused`` and brings the
            device's rows back to the server's, for which the owner's log is read whole.

    Raises:
        TypeError: ``synchronizer`` is no Synchronizer, or another argument has the wrong type.
        ValueError: an argument is empty or negative.
    """

    def __init__(
        self,
        synchronizer: Synchronizer,
        diffs_model_name: str = "diffs",
        *,
        max_clock_skew_ms: int = 300_000,
        lock_timeout_s: float = 10.0,
        max_diffs: int = 200_000,
        max_json_data_bytes: int = 16 * 1024 * 1024,
        max_depth: int = 1000,
        on_refusal: Literal["raise", "skip"] = "raise",
    ) -> None:
        if not isinstance(synchronizer, Synchronizer):
            raise TypeError(
                f"synchronizer must be a Synchronizer, not {type(synchronizer).__name__}"
            )
        check_text("diffs_model_name", diffs_model_name)
        check_count("max_clock_skew_ms", max_clock_skew_ms, MAX_LOGICAL_CLOCK)
        check_count("max_diffs", max_diffs, sys.maxsize)
        check_count("max_json_data_bytes", max_json_data_bytes, MAX_JSON_DATA_BYTES)
        check_count("max_depth", max_depth, MAX_DEPTH)
        if not isinstance(lock_timeout_s, (int, float)) or isinstance(lock_timeout_s, bool):
            raise TypeError("lock_timeout_s must be a number (seconds)")
        if not (math.isfinite(lock_timeout_s) and 0 <= lock_timeout_s <= threading.TIMEOUT_MAX):
            raise ValueError("lock_timeout_s must be finite and not negative")
        if on_refusal not in ("raise", "skip"):
            raise ValueError(f"on_refusal must be 'raise' or 'skip', not {shown(on_refusal)}")
        self.synchronizer = synchronizer
        self.diffs_model_name = diffs_model_name
        self.max_clock_skew_ms = max_clock_skew_ms
        self.lock_timeout_s = float(lock_timeout_s)
        self.max_diffs = max_diffs
        self.max_json_data_bytes = max_json_data_bytes
        self.max_depth = max_depth
        self.on_refusal = on_refusal
        self._listeners: tuple[Listener, ...] = ()

    def listen(self, listener: Listener) -> None:
        """Have a function called after each sync, push and adopted piece, in its thread.

        For what follows a log: metrics, a message to the owner's other devices.  What it raises
        is logged and goes no further, since the edits are written by then.

        Args:
            listener: takes a :class:`SyncReport`; it must not block.
        """
        self._listeners += (listener,)

    def apply(
        self,
        logical_clock: int | str,
        diffs: Sequence[dict[str, Any]],
        owner_id: str,
        *,
        limit: int | str | None = None,
        cursor: str | None = None,
    ) -> Reply:
        """Merge what a device did with what the other devices of its owner did meanwhile.

        Writes the app's tables and the log, all or nothing where the Synchronizer has
        transactions.  Calling again with the same request is always right.  Each of the dicts in
        ``diffs`` that went upstream gets its new ``logical_clock`` once everything is written.

        Args:
            logical_clock: the clock of the reply to the device's last sync, 0 before the first.
            diffs: the device's edits, in the order in which it made them.
            owner_id: whom the app authenticated; what is stored belongs to this owner, whatever
                the diffs claim.
            limit: about how many diffs the reply may bring; more come in further pages
                (docs/protocol.md, "Pages").
            cursor: of the last reply, if that said that there is more.

        Returns:
            ``success`` (True), ``message`` (''), the new ``logical_clock``, and the ``diffs`` that
            the device must apply; with a limit or a cursor also ``more``, and the next ``cursor``
            if there is more.

        Raises:
            InvalidDiffError: a diff is malformed.
            UnauthorizedError: a rule of the app refused a diff.
            LogicalClockError: the clock is not an int of 0 or more, or ahead of the server.
            PageError: ``limit`` or ``cursor`` cannot be right.
            BusyError: another sync of this owner took too long.
            TypeError, ValueError: ``owner_id`` is no text, or the Synchronizer returned no rows.
        """
        exchange = _core.Exchange(diffs, self.diffs_model_name, **self._limits())
        return self._sync(exchange, logical_clock, limit, cursor, owner_id).reply()

    def apply_json(self, body: bytes | str, owner_id: str) -> bytes:
        """Do what :meth:`apply` does, from the body of a request to the body of the reply.

        Nothing of it becomes a Python object but what the Synchronizer is given.

        Args:
            body: the request as JSON, an object with ``logical_clock`` and ``diffs``, perhaps
                ``limit`` and ``cursor``; whatever else it has is the app's own business.
            owner_id: whom the app authenticated.

        Returns:
            The reply as JSON, in UTF-8.

        Raises:
            InvalidDiffError: the body is malformed, or a diff in it.
            TypeError: ``body`` is neither str nor bytes.
            What else :meth:`apply` raises.
        """
        exchange = _core.Exchange.from_json(body, self.diffs_model_name, **self._limits())
        sync = self._sync(
            exchange, exchange.logical_clock, exchange.limit, exchange.cursor, owner_id
        )
        return sync.reply_json()

    def validate(self, diff: dict[str, Any], owner_id: str) -> bool:
        """Check one diff as :meth:`apply` would: its form, then the app's rule.

        Args:
            diff: the diff as a device would send it.
            owner_id: the authenticated owner.

        Returns:
            True.

        Raises:
            InvalidDiffError: the diff is malformed.
            UnauthorizedError: the rule refused it.
        """
        check_text("owner_id", owner_id)
        exchange = _core.Exchange([diff], self.diffs_model_name, **self._limits())
        exchange.meet([])
        Rules(self.synchronizer, exchange, owner_id).check()
        return True

    def push(self, owner_id: str, operations: Iterable[Operation]) -> int:
        """Make edits as the backend itself, for the owner's devices to learn at their next sync.

        They go into the models and the log in one transaction, as those of a device that is up to
        date; the rules are not asked.  Costs the same whatever the length of the log if the
        Synchronizer offers ``highest_logical_clock``; else the owner's log is read.

        Args:
            owner_id: whose rows.
            operations: ``(type, model, data)`` each: 'create', 'update' or 'delete', the model's
                name, and the row as a dict or as JSON text, with an ``id``.

        Returns:
            The owner's logical clock afterwards.

        Raises:
            InvalidDiffError: an operation is malformed; ``index`` says which.
            BusyError: a sync of this owner took too long.
        """
        check_text("owner_id", owner_id)
        operations = list(operations)
        transactions = self._transactions(owner_id)
        clock, accepted = push_operations(transactions, operations, self._now_ms())
        self._tell(SyncReport(owner_id, clock, len(operations), accepted))
        return clock

    def adopt(
        self,
        owner_id: str,
        model: str,
        rows: Iterable[Mapping[str, Any] | str] | None = None,
        *,
        progress: Callable[[int], object] | None = None,
    ) -> int:
        """Bring rows that the app had before mobync into the log, as creates.

        The models are not written.  A row that the log already has is passed over, so repeating
        adds only what is new.  Of one that was edited by a push or a sync before it was adopted
        the log has updates only: it gets a delete and a create.  Works through the rows in pieces,
        a transaction each, between which the owner's devices sync.

        Args:
            owner_id: whose rows.
            model: the model that they are of.
            rows: the rows, as dicts or JSON text with an ``id``; None has the Synchronizer read
                all rows of the owner (``owned_rows``), each piece in the transaction that adopts
                it.
            progress: called after each piece with the number of rows looked at so far.

        Returns:
            How many rows were added to the log.

        Raises:
            InvalidDiffError: a row is malformed, or there is no such model; the pieces before it
                stay adopted.
            BusyError: a sync of this owner took too long.
        """
        check_text("owner_id", owner_id)
        check_text("model", model)
        adoption = Adoption(self._transactions(owner_id), model, rows, self._now_ms)
        while not adoption.is_done:
            piece = adoption.adopt_piece()
            if piece.seen:
                self._tell(SyncReport(owner_id, piece.clock, piece.seen, piece.accepted))
                if progress is not None:
                    progress(adoption.seen)
        return adoption.added

    def compact(self, owner_id: str) -> CompactResult:
        """Drop from an owner's log what no device can need.

        Safe at any time, whatever clocks the devices hold (docs/protocol.md, "Compaction").  A
        Synchronizer that offers ``highest_logical_clock`` and knows the filter ``minor`` has its
        log compacted in pieces, a transaction each, between which the owner's devices sync; else
        the log is read whole.  Memory grows with the owner's live objects, not with the history.

        Args:
            owner_id: whose log.

        Returns:
            Rows and bytes of the log before and after.

        Raises:
            BusyError: a sync of this owner took too long.
            ValueError: the Synchronizer gave rows that are no log of this owner.

        What interrupts it leaves a log that is right, and smaller by the pieces that were done;
        calling again goes on.
        """
        check_text("owner_id", owner_id)
        return compact_log(self._transactions(owner_id))

    def _sync(
        self,
        exchange: _core.Exchange,
        logical_clock: int | str | None,
        limit: int | str | None,
        cursor: str | None,
        owner_id: str,
    ) -> _Sync:
        client_clock = read_clock(logical_clock)
        page = read_page(limit, cursor, client_clock, exchange)
        check_text("owner_id", owner_id)
        sync = _Sync(self, exchange, client_clock, owner_id, page)
        self._tell(sync.run())
        return sync

    def _tell(self, report: SyncReport) -> None:
        logger.info(
            "sync owner=%s pushed=%d accepted=%d sent=%d clock=%d",
            report.owner_id if report.owner_id.isprintable() else ascii(report.owner_id),
            report.pushed,
            report.accepted,
            report.sent,
            report.logical_clock,
        )
        for listener in self._listeners:
            try:
                listener(report)
            except Exception:
                logger.exception("a listener failed; what it was told of is written")

    def _limits(self) -> dict[str, int]:
        return {
            "max_diffs": self.max_diffs,
            "max_json_data_bytes": self.max_json_data_bytes,
            "max_depth": self.max_depth,
        }

    def _now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def _transactions(self, owner_id: str) -> OwnerTransactions:
        return OwnerTransactions(
            self.synchronizer, self.diffs_model_name, owner_id, self.lock_timeout_s
        )


class _Synced(NamedTuple):
    """What came of a request."""

    clock: int  # for the reply
    highest_before: int = -1
    accepted: int = 0
    next_page: int | None = None  # the clock with which it begins
    refused: Sequence[RefusedDiff] = ()
    downstream: list[DiffDict] | None = None  # where it is not what the merge says


class _Sync:
    """One sync: a request whose form is right, what comes of it, and the reply.

    Args:
        server: by whose settings it goes.
        exchange: the request's diffs.
        client_clock: the request's logical clock.
        owner_id: whose.
        page: what the request says of pages.
    """

    def __init__(
        self,
        server: Mobync,
        exchange: _core.Exchange,
        client_clock: int,
        owner_id: str,
        page: Page | None,
    ) -> None:
        self._server = server
        self._skips = server.on_refusal == "skip"
        self._exchange = exchange
        self._client_clock = client_clock
        self._owner_id = owner_id
        self._page = page
        self._writing = Writing(server._transactions(owner_id), exchange)
        self._misfits: dict[int, InvalidDiffError] = {}  # what the app's tables refused so far
        self._synced: _Synced  # once it has run

    def run(self) -> SyncReport:
        """Merge and write; where refusals are skipped, again without what did not fit."""
        exchange = self._exchange
        for tries_left in range(MOST_TRIES, -1, -1):
            try:
                self._synced = synced = self._writing.run(self._merge_and_write)
                break
            except InvalidDiffError as misfit:
                left_out = misfit.index is None or misfit.index in self._misfits
                final = tries_left == 0 or not self._server.synchronizer.may_begin_again()
                if not self._skips or left_out or final:
                    raise
                for each in (misfit, *misfit.others):
                    self._misfits[cast(int, each.index)] = each
        exchange.acknowledge(synced.highest_before + 1)
        return SyncReport(
            self._owner_id,
            synced.clock,
            pushed=len(exchange) if synced.next_page is None else 0,
            accepted=synced.accepted,
            sent=exchange.downstream_count if synced.downstream is None else len(synced.downstream),
            conflicts=exchange.conflicts,
            refused=len(synced.refused),
        )

    def reply(self) -> Reply:
        synced = self._synced
        diffs = self._exchange.downstream() if synced.downstream is None else synced.downstream
        plain: PlainReply = {
            "success": True,
            "message": "",
            "logical_clock": synced.clock,
            "diffs": diffs,
        }
        return {**plain, **self._beyond_plain()}  # type: ignore[typeddict-item]

    def reply_json(self) -> bytes:
        if self._synced.refused:
            return json.dumps(self.reply(), ensure_ascii=False).encode()
        printed = self._exchange.reply_json(self._synced.clock)
        more = self._beyond_plain()
        if not more:
            return printed
        return b"%s, %s" % (printed[:-1], json.dumps(more).encode()[1:])

    def _beyond_plain(self) -> dict[str, Any]:
        """What only those find in a reply who asked for it."""
        synced = self._synced
        more: dict[str, Any] = {}
        if self._page is not None:
            more["more"] = synced.next_page is not None
        if synced.next_page is not None:
            fingerprint = self._exchange.fingerprint
            more["cursor"] = write_cursor(synced.next_page, self._client_clock, fingerprint)
        if self._skips:
            more["refused"] = [diff.refusal for diff in synced.refused]
        return more

    def _merge_and_write(self, log: OwnerLog) -> _Synced:
        """Do all of it in one transaction, unless a page comes first."""
        exchange = self._exchange
        next_page = None if self._page is None else meet_page(exchange, log, self._page)
        if next_page is not None:
            exchange.merge()
            return _Synced(self._client_clock, next_page=next_page)
        highest = self._meet_window(log)
        refused = self._merge_allowed(log)
        accepted = self._writing.write(log, highest + 1)
        clock = highest + accepted + 1
        downstream = None
        if refused:
            history = history_of(refused)
            log.meet(history, 0)
            history.select(False, True, 0, 0)
            history.merge()
            downstream = restored_downstream(
                exchange, history, self._client_clock, self._owner_id, clock
            )
        return _Synced(clock, highest, accepted, refused=refused, downstream=downstream)

    def _meet_window(self, log: OwnerLog) -> int:
        """Show the exchange the window; return the owner's highest clock, -1 if there is none.

        Of a window in pages only the last one goes downstream, with what the request touches.
        """
        exchange, page = self._exchange, self._page
        first_clock = self._client_clock if page is None else page.first_clock
        pulls_only = len(exchange) == 0
        met_from = first_clock if pulls_only else self._client_clock
        highest = log.meet(exchange, met_from)
        if highest is None and met_from > 0:
            highest = log.highest_clock(met_from - 1)
            _check_not_ahead(met_from, highest)
        highest = -1 if highest is None else highest
        if page is not None:
            _check_not_ahead(first_clock, highest)
            exchange.select(True, True, first_clock, MAX_LOGICAL_CLOCK + 1)
        if first_clock == 0:
            exchange.leave_out_dead()
        return highest

    def _merge_allowed(self, log: OwnerLog) -> list[RefusedDiff]:
        """Merge what the app's rules allow; return what was left out.

        Of a retry only what it would write is asked: for the rest the rule may have said yes at
        the first try and say no by now, of a row that the first try locked, say.
        """
        exchange, max_skew_ms = self._exchange, self._server.max_clock_skew_ms
        now_ms = self._server._now_ms()
        is_retry = exchange.is_retry
        if is_retry:
            exchange.merge(now_ms, max_skew_ms)
        rules = Rules(log.store, exchange, self._owner_id)
        refused: list[RefusedDiff] = []
        if self._skips:
            refused = rules.leave_out_refused(self._misfits)
        else:
            rules.check()
        if refused or not is_retry:
            exchange.merge(now_ms, max_skew_ms)
        return refused


def _check_not_ahead(clock: int, highest: int) -> None:
    if clock > highest + 1:
        raise LogicalClockError(
            f"logical_clock {clock} is ahead of the server's log: "
            "the server has lost diffs that this device has seen; pull anew from 0",
            ahead=True,
        )


def merge(
    server_diffs: Sequence[dict[str, Any]], client_diffs: Sequence[dict[str, Any]]
) -> MergeResult:
    """Merge two lists of diffs; reads and writes nothing, and changes neither list.

    Args:
        server_diffs: the window: the owner's diffs from the client's clock on, in any order.
        client_diffs: the client's diffs, in its order.

    Returns:
        What each side must apply.  ``id``, ``owner``, ``model`` and ``logical_clock`` are as they
        came; a diff that the merge does not change keeps its ``json_data`` byte for byte.

    Raises:
        InvalidDiffError: a diff of either list is malformed.
    """
    exchange = _core.Exchange(client_diffs)
    exchange.meet(server_diffs)
    exchange.merge()
    return MergeResult(exchange.upstream(), exchange.downstream())
