"""``Mobync``: the server half, which an app makes from its Synchronizer."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NoReturn, ParamSpec, SupportsIndex, TypeVar

from . import _core
from ._awaited import awaited
from ._plain import check_plain, refuse_awaitable
from ._sync import known_devices
from ._sync.adopting import adopt_rows
from ._sync.backend_edits import Operation, push_operations
from ._sync.compacting import compact_log
from ._sync.devices import keeps_devices
from ._sync.erasing import erase_owner
from ._sync.moving import move_all
from ._sync.noted_edits import Report, log_edits, log_noted
from ._sync.owner_locks import locks_of
from ._sync.reconciling import reconcile_owner
from ._sync.settings import Settings, check_settings
from .errors import shown
from .synchronizer import Synchronizer, check_synchronizer
from .types import (
    CompactResult,
    DiffDict,
    EraseReceipt,
    KnownDevice,
    MergeResult,
    MoveResult,
    ReconcileResult,
    SyncReport,
)

logger = logging.getLogger("mobync")

P = ParamSpec("P")
T = TypeVar("T")

Listener = Callable[[SyncReport], object]


class Mobync(_core.Mobync):
    """The server half of mobync over one :class:`Synchronizer`.

    One object serves any number of threads.

    Args:
        synchronizer: the app's database and rules.
        diffs_model_name: the name that the synchronizer has for the log.
        max_clock_skew_ms: how many milliseconds a device's clock may be ahead of the server's. If
            it is further ahead, its timestamps are replaced by the server's time.
        lock_timeout_s: seconds to wait for another sync of the same owner.
        max_diffs: diffs that one request may hold.
        max_json_data_bytes: bytes of UTF-8 that one diff's ``json_data`` may have.
        max_depth: levels to which ``json_data`` may be nested; at most 1000.
        max_fields: fields that ``json_data`` may have.
        max_reply_bytes: bytes of ``json_data`` that one reply may have. Pages are kept below this.
            A device that does not page and would get more gets a PageError.
        max_pull_diffs: diffs that one page may have, even if a device asks for more. The memory for
            a page grows with it.
        on_refusal: what to do with a diff that is malformed, or that a rule or the app's tables
            refuse. 'raise' ends the whole sync. 'skip' leaves out the diff and the diffs that
            depend on it. Then the reply lists it as ``refused`` and restores the device's rows, and
            the owner's whole log is read for that.
        device_retention_s: seconds that a device may be silent before compaction no longer waits
            for it. When it comes back, it starts over with a whole pull, and loses no unsent edit.
        first_pull_retention_s: the same for a device that has not finished its first pull.
        anonymous_devices: whether devices without a name may sync. While an owner has such devices,
            compaction does not fold the owner's log (docs/protocol.md, "The horizon").
        max_request_bytes: bytes of JSON that all diffs of a request in parts may have together.
            Each part has the limits of a whole request, but all parts together are not limited by
            ``max_diffs``. The last part needs about four times as much memory.
        max_devices: named devices that one owner may have. When one more comes, a device that was
            silent for longer than the retention is forgotten; if there is none, the new one is
            refused. Revoked devices do not count.

    Raises:
        TypeError: ``synchronizer`` is not a Synchronizer, or another argument has the wrong type.
        ValueError: an argument is empty or negative; the synchronizer's log has another name; or
            devices must name themselves, and the synchronizer does not store devices.
    """

    _listeners: tuple[Listener, ...] = ()

    def __init__(
        self,
        synchronizer: Synchronizer,
        diffs_model_name: str = "diffs",
        *,
        max_clock_skew_ms: int = 300_000,
        lock_timeout_s: float = 10.0,
        max_diffs: int = 200_000,
        max_json_data_bytes: int = 16_777_216,
        max_depth: int = 1000,
        max_fields: int = 10_000,
        max_reply_bytes: int = 268_435_456,
        max_pull_diffs: int = 50_000,
        on_refusal: Literal["raise", "skip"] = "raise",
        device_retention_s: float = 7_776_000.0,
        first_pull_retention_s: float = 86_400.0,
        anonymous_devices: bool = True,
        max_request_bytes: int = 268_435_456,
        max_devices: int = 1000,
    ) -> None:
        settings = Settings(
            max_clock_skew_ms,
            lock_timeout_s,
            max_diffs,
            max_json_data_bytes,
            max_depth,
            max_fields,
            max_reply_bytes,
            max_pull_diffs,
            on_refusal == "skip",
            device_retention_s,
            first_pull_retention_s,
            anonymous_devices,
            max_request_bytes,
            max_devices,
        )
        _core.check_text("diffs_model_name", diffs_model_name)
        check_settings(settings, on_refusal)
        check_synchronizer(synchronizer, diffs_model_name)
        if not anonymous_devices and not keeps_devices(synchronizer):
            raise ValueError(
                "anonymous_devices=False needs a synchronizer that keeps devices: read_devices and "
                "write_devices"
            )
        super().__init__(synchronizer, diffs_model_name, locks_of(synchronizer), settings)

    def __reduce_ex__(self, protocol: SupportsIndex, /) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} holds locks and cannot be pickled or copied: make another "
            "one of the same Synchronizer"
        )

    def listen(self, listener: Listener) -> None:
        """Call a function after each sync, push and adopted piece, in the thread of that work.

        It is also called when devices were revoked, so that their streams of events can end.

        Use it for metrics, or for a message to the owner's other devices. It may call ``push``. An
        exception of the function is only logged, because the edits are already written.

        Args:
            listener: takes a :class:`SyncReport`; it must not block.

        Raises:
            TypeError: ``listener`` cannot be called, or is an ``async def``.
        """
        if not callable(listener):
            raise TypeError(f"a listener must be callable, not {shown(listener)}")
        check_plain("a listener", listener)
        self._listeners += (listener,)

    def push(self, owner_id: str, operations: Iterable[Operation], *, at_once: bool = False) -> int:
        """Make edits as the backend; the owner's devices get them with their next sync.

        The edits go into the models and the log, like edits of a device that is up to date. No rule
        is asked. Up to 5,000 edits are one transaction. More are written in pieces of 5,000, and
        the owner's devices can sync in between. So nobody waits for all of them, neither for the
        owner nor for SQLite's one writer. If the Synchronizer has ``highest_logical_clock``, the
        cost does not depend on the length of the log; otherwise the owner's log is read.

        Args:
            owner_id: whose rows.
            operations: ``(type, model, data)`` each: 'create', 'update', 'delete' or 'upsert', the
                name of the model, and the row as a dict or as JSON text, with an ``id``. An upsert
                becomes a create if the object does not exist or was deleted. Otherwise it becomes
                an update with the fields that differ, or nothing.
            at_once: write all or nothing, however many there are. It is needed if one of the first
                5,000 rows refers to a later one.

        Returns:
            The owner's logical clock afterwards.

        Raises:
            InvalidDiffError: an operation is malformed, or the tables refuse it; ``index`` says
                which. Earlier pieces stay written.
            BusyError: a sync of this owner took too long.
        """
        return push_operations(self, owner_id, list(operations), at_once)

    def adopt(
        self,
        owner_id: str,
        model: str,
        rows: Iterable[Mapping[str, Any] | str] | None = None,
        *,
        progress: Callable[[int], object] | None = None,
    ) -> int:
        """Bring rows that the app had before mobync into the log, as creates.

        The models are not written. A row that is already in the log is skipped, so repeating adds
        only new rows. If a row was edited by a push or a sync before it was adopted, the log has
        only updates of it; then it gets a delete and a create. The rows are adopted in pieces, each
        in its own transaction, and the owner's devices can sync in between.

        Args:
            owner_id: whose rows.
            model: their model.
            rows: the rows, as dicts or JSON text with an ``id``. With None, the Synchronizer reads
                all rows of the owner (``owned_rows``), each piece in the transaction that adopts
                it.
            progress: called after each piece with the number of rows so far.

        Returns:
            How many rows were added to the log.

        Raises:
            InvalidDiffError: a row is malformed, or there is no such model; the pieces before it
                stay adopted.
            BusyError: a sync of this owner took too long.
        """
        _core.check_text("owner_id", owner_id)
        _core.check_text("model", model)
        seen = added = 0
        for piece in adopt_rows(self, owner_id, model, rows):
            seen += piece.seen
            added += piece.added
            if piece.seen:
                self._tell((owner_id, piece.clock, piece.seen, piece.accepted))
                if progress is not None:
                    progress(seen)
        return added

    def reconcile(
        self,
        owner_id: str,
        model: str | None = None,
        *,
        dry_run: bool = False,
        progress: Callable[[int, int], object] | None = None,
    ) -> ReconcileResult:
        """Add edits to the log that were made without mobync, so that devices get them.

        SQL, an admin page or a batch job may have inserted, updated or deleted rows, or given them
        to another owner, which is a delete for one owner and a create for the other. The models are
        not written. Rows are compared in pieces, each in its own transaction, and the owner's
        devices can sync in between; their edits are never mistaken for edits by SQL. Memory grows
        with the owner's live objects, not with the history.

        Args:
            owner_id: whose rows.
            model: their model. With None, the Synchronizer names the models (``owned_models``).
            dry_run: only compare, and write nothing. If the Synchronizer has ``reading``, this
                reads one moment and takes no lock.
            progress: called after each piece with how much is done, and with an estimate of the
                total: diffs of the log, then rows.

        Returns:
            What was found.

        Raises:
            InvalidDiffError: a row cannot become a diff, or there is no such model; the pieces
                before it stay in the log.
            NotImplementedError: the Synchronizer does not have ``owned_rows`` and
                ``find_owned_rows``, or, without a model, ``owned_models``.
            BusyError: a sync of this owner took too long.
            ValueError: the Synchronizer returned rows that are not a log of this owner.
        """
        _core.check_text("owner_id", owner_id)
        if model is not None:
            _core.check_text("model", model)
        return reconcile_owner(self, owner_id, model, dry_run, progress, self._tell)

    def devices(self, owner_id: str) -> list[KnownDevice]:
        """Return the devices of an owner that name themselves, the most recently seen first.

        Args:
            owner_id: the owner.

        Raises:
            NotImplementedError: the Synchronizer does not store devices, or its database has no
                table for them yet.
            BusyError: a sync of this owner took too long.
        """
        _core.check_text("owner_id", owner_id)
        return known_devices.known_devices(self, owner_id)

    def name_device(self, owner_id: str, device: str, label: str) -> None:
        """Give a device a label for people, such as "Anna's phone".

        Args:
            owner_id: the owner of the device.
            device: the name that the device gave itself.
            label: at most 255 characters; an empty label removes the old one.

        Raises:
            ValueError: there is no such device, or the label is too long.
            NotImplementedError, BusyError: as :meth:`devices`.
        """
        _core.check_text("owner_id", owner_id)
        known_devices.label(self, owner_id, device, label)

    def revoke_device(self, owner_id: str, device: str) -> None:
        """Refuse a device from now on, for example a lost one; it then drops the owner's rows.

        The token of the device stays valid: a device that takes a new name is a new device.

        Args:
            owner_id: the owner of the device.
            device: the name that the device gave itself.

        Raises:
            ValueError: there is no such device.
            NotImplementedError, BusyError: as :meth:`devices`.
        """
        _core.check_text("owner_id", owner_id)
        clock = self.logical_clock(owner_id)
        known_devices.revoke(self, owner_id, device)
        self._tell_revoked(owner_id, clock, (device,))

    def forget_device(self, owner_id: str, device: str) -> None:
        """Delete what is stored about a device. If it comes again, it takes a new name.

        It then starts over, and loses nothing.

        Args:
            owner_id: the owner of the device.
            device: the name that the device gave itself.

        Raises:
            ValueError: there is no such device.
            NotImplementedError, BusyError: as :meth:`devices`.
        """
        _core.check_text("owner_id", owner_id)
        known_devices.forget(self, owner_id, device)

    def erase(self, owner_id: str) -> EraseReceipt:
        """Delete all data of an owner, as the law may require, and revoke the owner's devices.

        This deletes the rows of all models, the log, and what is stored about the devices, in one
        transaction. Only the names of the devices stay, so that they are refused from now on.
        Backups and devices without a name keep their data. End the owner's tokens as well.

        Args:
            owner_id: the owner.

        Returns:
            How much was deleted; this is also logged.

        Raises:
            BusyError: a sync of this owner took too long.
            Exception: what the Synchronizer raises, for example if a row of another owner refers to
                a row of this owner. Nothing is erased then.
        """
        _core.check_text("owner_id", owner_id)
        receipt, devices = erase_owner(self, owner_id)
        logger.info(
            "erased owner=%s rows=%d diffs=%d devices=%d",
            _printable(owner_id),
            sum(receipt.rows.values()),
            receipt.diffs,
            receipt.devices,
        )
        if devices:
            self._announce(SyncReport(owner_id, 0, revoked=devices))
        return receipt

    def move_owner(self, old: str, new: str, *, same: Collection[str] = ()) -> MoveResult:
        """Give all data of one owner to another: a guest signs in, or two accounts become one.

        The rows become the new owner's. The diffs are added to the new owner's log, and that
        owner's devices get them at their next sync. The rules are not asked. All of this is one
        transaction, which reads both logs in pieces. Memory grows with the number of objects,
        deleted ones too, and not with their edits.

        Named devices of the old owner continue with the new owner's token: they start over, and
        their unsent edits are merged as usual. Give them the token afterwards. A device that still
        comes as the old owner's gets an OwnerMovedError. Devices without a name pull again, and if
        the old owner had any, so do those of the new owner.

        Args:
            old: the owner who has the data. Afterwards only a note is left, to answer late devices.
            new: the owner who gets the data.
            same: models whose objects have fixed ids, such as settings. An object of both owners
                with the same id is one object there, and is merged field by field; the later edit
                wins.

        Returns:
            How much was moved; nothing if it was moved before.

        Raises:
            SameIdError: both owners have an object with the same id in a model that ``same`` does
                not name; nothing was moved.
            ValueError: old and new are the same.
            NotImplementedError: the Synchronizer does not have ``moving``, or does not store
                devices.
            InvalidDiffError: the tables refuse a row with the new owner, for example because of a
                constraint.
            BusyError: a sync of one of them took too long.
        """
        _core.check_text("old", old)
        _core.check_text("new", new)
        if old == new:
            raise ValueError(f"old and new are the same owner, {shown(old)}")
        if isinstance(same, str):
            raise TypeError("same must be a list of names of models, not a str")
        result, reports = move_all(self, old, new, frozenset(same))
        logger.info(
            "moved owner=%s to=%s rows=%d diffs=%d devices=%d",
            _printable(old),
            _printable(new),
            sum(result.rows.values()),
            result.diffs,
            result.devices,
        )
        for report in reports:
            self._tell(report)
        return result

    def compact(self, owner_id: str) -> CompactResult:
        """Drop diffs from an owner's log that no device can need, and fold those that all devices
        have seen.

        This is safe at any time, whatever clocks the devices have (docs/protocol.md, "Compaction").
        The server knows what each named device has seen. Below the lowest of these clocks (the
        horizon), a live object becomes one row and a dead object none. If the Synchronizer has
        ``highest_logical_clock`` and supports the filter ``minor``, the log is compacted in pieces,
        each in its own transaction, and the owner's devices can sync in between. Otherwise the
        whole log is read. Memory grows with the owner's live objects, not with the history.

        Args:
            owner_id: whose log.

        Returns:
            Rows and bytes of the log before and after, the horizon, and what holds it.

        Raises:
            BusyError: a sync of this owner took too long.
            ValueError: the Synchronizer returned rows that are not a log of this owner.

        If it is interrupted, the log is still right, and the finished pieces stay compacted.
        Calling it again continues.
        """
        _core.check_text("owner_id", owner_id)
        return compact_log(self, owner_id)

    # An asyncio Synchronizer has only these methods; with another one, they run in a thread.
    apply_async = awaited(_core.Mobync.apply)
    apply_json_async = awaited(_core.Mobync.apply_json)
    validate_async = awaited(_core.Mobync.validate)
    logical_clock_async = awaited(_core.Mobync.logical_clock)
    push_async = awaited(push)
    adopt_async = awaited(adopt)
    reconcile_async = awaited(reconcile)
    compact_async = awaited(compact)
    devices_async = awaited(devices)
    name_device_async = awaited(name_device)
    revoke_device_async = awaited(revoke_device)
    forget_device_async = awaited(forget_device)
    erase_async = awaited(erase)
    move_owner_async = awaited(move_owner)

    async def run_async(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a plain function that uses this Mobync, and await the result.

        It runs in the same way as the methods above.

        Args:
            function: the function.
            *args: its positional arguments.
            **kwargs: its keyword arguments.

        Returns:
            The result of the function.
        """
        result: T = await self.synchronizer._waiting.run(function, *args, **kwargs)
        return result

    def _log_noted(self, store: Synchronizer, owner_id: str) -> Report | None:
        """Turn notes of rows that something else has written into diffs, in a transaction."""
        return log_noted(self, store, owner_id)

    def _log_edits(
        self, store: Synchronizer, owner_id: str, operations: Sequence[Operation]
    ) -> Report:
        """Add edits of rows that are already written to the log, in a transaction."""
        return log_edits(self, store, owner_id, operations)

    def _now_ms(self) -> int:
        """The same as in _core.Mobync, without calling C."""
        return time.time_ns() // 1_000_000

    def _note_part(self, *, is_last: bool) -> None:
        """Hear about an accepted part of a request; with the last one, the request is complete."""

    def _tell(self, report: tuple[Any, ...]) -> None:
        """Log a committed transaction, as the fields of a SyncReport, and tell the listeners."""
        if not self._listeners and not logger.isEnabledFor(logging.INFO):
            return
        told = SyncReport(*report)
        logger.info(
            "sync owner=%s pushed=%d accepted=%d sent=%d clock=%d%s%s",
            _printable(told.owner_id),
            told.pushed,
            told.accepted,
            told.sent,
            told.logical_clock,
            "" if told.device is None else f" device={_printable(told.device)}",
            " reset" if told.reset else "",
        )
        self._announce(told)

    def _tell_when_free(self, report: tuple[Any, ...]) -> None:
        """Do what ``_tell`` does, but not before the caller's own sync has ended.

        Until then a listener could not push for the same owner.
        """
        self._locks.when_free(partial(self._tell, report), self.synchronizer._waiting)

    def _tell_revoked(self, owner_id: str, clock: int, devices: tuple[str, ...]) -> None:
        """Write to the app's log that devices are refused from now on, and tell the listeners."""
        names = " ".join(map(_printable, devices))
        logger.info("revoked owner=%s device=%s", _printable(owner_id), names)
        self._announce(SyncReport(owner_id, clock, revoked=devices))

    def _announce(self, told: SyncReport) -> None:
        for listener in self._listeners:
            try:
                refuse_awaitable("a listener", listener(told))
            except Exception:
                logger.exception("a listener failed; the sync that it was told about is written")


def _printable(text: str) -> str:
    return text if text.isprintable() else ascii(text)


def merge(
    server_diffs: Sequence[dict[str, Any] | DiffDict],
    client_diffs: Sequence[dict[str, Any] | DiffDict],
) -> MergeResult:
    """Merge two lists of diffs; reads and writes nothing, and changes neither list.

    Args:
        server_diffs: the window: the owner's diffs from the client's clock on, in any order.
        client_diffs: the client's diffs, in its order.

    Returns:
        What each side must apply. ``id``, ``owner``, ``model`` and ``logical_clock`` are unchanged.
        If the merge does not change a diff, its ``json_data`` stays the same byte for byte.

    Raises:
        InvalidDiffError: a diff of either list is malformed.
    """
    return MergeResult(*_core.merge(server_diffs, client_diffs))
