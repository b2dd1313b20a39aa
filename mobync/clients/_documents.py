"""An owner's rows as whole documents, made from the log.

A client with another protocol asks for whole documents, and its edits are compared with them. They
come from the log, which is read once and then followed: a later request reads only new entries. So
a process caches the documents of the owners that it served last, up to a number of bytes.

Nothing here decides the result of an edit, because the log is already merged.
"""

from __future__ import annotations

import json
from bisect import bisect_right, insort
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

from .. import _core
from .._sync.attempts import OwnerLog, in_transaction, plain_answer
from .._sync.devices import admit_nameless, is_noted, keeps_devices, read_states
from .._sync.owner_locks import Hold, OwnerLocks
from .._sync.owner_state import OWNER, OwnerState
from ..errors import InvalidDiffError
from ..sync import Mobync
from ..types import FIELD_TIMES, Diff
from ._devices import Visit

MAX_BYTES = 64 * 1024 * 1024  # of json_data and its overhead, in one process
ENTRY_BYTES = 500  # about the overhead of a row of the log
STALE_CHANGES = 1000  # that a collection may have beside as many as it has documents

_ALL = ("",)  # no owner's id


class Field(NamedTuple):
    """A member of a document.

    Attributes:
        text: the text of its value in the log.
        time_ms: when it was last edited: the latest time of its writers in this life.
        original: whether only the create wrote it.
    """

    text: str
    time_ms: int
    original: bool


class Document:
    """One object of the log.

    Attributes:
        fields: the fields by name, without ``id``; empty if it is dead.
        clock: the clock of the last diff that changed it.
        alive: whether it exists.
        reborn: whether it was deleted before this life.
        ended_ms: when it was last deleted; 0 if it never was.
    """

    __slots__ = ("alive", "clock", "ended_ms", "fields", "id", "reborn")

    def __init__(self, id_: str) -> None:
        self.id = id_
        self.fields: dict[str, Field] = {}
        self.clock = -1
        self.alive = False
        self.reborn = False
        self.ended_ms = 0

    def take(
        self,
        kind: str,
        members: Mapping[str, str],
        time_ms: int,
        times_ms: Mapping[str, int] = MappingProxyType({}),
    ) -> bool:
        """Apply a diff; return whether it changed anything. An update of a dead object does not.

        Args:
            kind: its type.
            members: the members that it wrote.
            time_ms: its time.
            times_ms: the times of members that have another time, because the diff was folded.
        """
        if kind == "delete":
            self.fields = {}
            self.alive = False
            self.reborn = True
            self.ended_ms = max(self.ended_ms, time_ms)
            return True
        if kind == "update" and not self.alive:
            return False
        original = not self.alive
        self.alive = True
        for name, text in members.items():
            before = self.fields.get(name)
            late = times_ms.get(name, time_ms)
            late = late if before is None else max(late, before.time_ms)
            self.fields[name] = Field(text, late, original)
        return True


class Collection:
    """The objects of one model, in the order of their last changes."""

    def __init__(self) -> None:
        self.documents: dict[str, Document] = {}
        self._changes: list[
            tuple[int, str]
        ] = []  # in order; entries that a later one replaced are stale

    def take(
        self,
        id_: str,
        kind: str,
        members: Mapping[str, str],
        time_ms: int,
        clock: int,
        times_ms: Mapping[str, int] = MappingProxyType({}),
    ) -> Document:
        """Apply the next diff of the log."""
        document = self.documents.get(id_)
        if document is None:
            document = self.documents[id_] = Document(id_)
        if document.take(kind, members, time_ms, times_ms) and document.clock != clock:
            document.clock = clock
            insort(self._changes, (clock, id_))
            if len(self._changes) > 2 * len(self.documents) + STALE_CHANGES:
                self._changes = list(self._fresh(0))
        return document

    def changed_after(self, clock: int, id_: str) -> Iterator[Document]:
        """The objects whose last change comes after this clock, and at this clock after this id."""
        for _, each in self._fresh(bisect_right(self._changes, (clock, id_))):
            yield self.documents[each]

    def _fresh(self, begin: int) -> Iterator[tuple[int, str]]:
        for place in range(begin, len(self._changes)):
            clock, id_ = change = self._changes[place]
            if self.documents[id_].clock == clock:
                yield change


class OwnerDocuments:
    """All objects of one owner, up to a clock.

    Attributes:
        clock: how far the log has been followed; the clock of a reply.
        size: about how many bytes this uses.
    """

    def __init__(self) -> None:
        self.clock = 0
        self.size = 0
        self.next_read = 0  # from the last known diff on, to check that it is still the same
        self._last_id: str | None = None
        self._collections: dict[str, Collection] = {}
        self._by_diff: dict[str, Document] = {}

    @property
    def models(self) -> list[str]:
        """The models in the log."""
        return list(self._collections)

    def collection(self, model: str) -> Collection:
        """The objects of a model; empty if the log has none."""
        return self._collections.get(model) or Collection()

    def has_diff(self, diff_id: str, document: Document | None) -> bool:
        """Whether the log has this diff, for this object."""
        return document is not None and self._by_diff.get(diff_id) is document

    def follow(
        self, rows: Sequence[Mapping[str, Any]], highest: int | None, horizon: int = 0
    ) -> bool:
        """Apply rows of the log, from ``next_read`` on and in any order.

        Args:
            rows: rows of the log.
            highest: the log's highest clock, whose row may have been folded; None: that of the
                last row.
            horizon: the clock below which the log is folded.

        Returns:
            Whether they continue these documents. If not, nothing was applied: the log was
            replaced, its last known row was compacted, or later rows were folded into earlier ones.
        """
        if highest is not None and highest + 1 < self.clock:
            return False
        if self._last_id is not None and self.clock < horizon:
            return False
        ordered = sorted(rows, key=lambda row: (row[Diff.LOGICAL_CLOCK], row[Diff.UTC_TIMESTAMP]))
        if self._last_id is not None:
            known = [row for row in ordered if row[Diff.LOGICAL_CLOCK] == self.next_read]
            if not known or known[-1][Diff.ID] != self._last_id:
                return False
            ordered = ordered[len(known) :]
        for row in ordered:
            self._take(row)
        self.clock = max(self.clock, 0 if highest is None else highest + 1)
        return True

    def _take(self, row: Mapping[str, Any]) -> None:
        members = dict(_core.members(row[Diff.JSON_DATA]))
        del members[Diff.ID]
        id_ = _core.text_member(row[Diff.JSON_DATA], Diff.ID)
        assert id_ is not None  # check_log has checked this
        collection = self._collections.setdefault(row[Diff.MODEL], Collection())
        clock, time_ms = row[Diff.LOGICAL_CLOCK], row[Diff.UTC_TIMESTAMP]
        times_ms = json.loads(row.get(FIELD_TIMES) or "{}")
        document = collection.take(id_, row[Diff.TYPE], members, time_ms, clock, times_ms)
        self._by_diff[row[Diff.ID]] = document
        self._last_id = row[Diff.ID]
        self.next_read = clock
        self.clock = clock + 1
        self.size += len(row[Diff.JSON_DATA]) + ENTRY_BYTES


class Documents:
    """The documents of the owners of one ``Mobync``.

    One object serves any number of threads.

    Args:
        mobync: the Mobync of the logs.
        max_bytes: about how many bytes may be cached between requests.
    """

    def __init__(self, mobync: Mobync, max_bytes: int = MAX_BYTES) -> None:
        self._mobync = mobync
        self._max_bytes = max_bytes
        self._kept: dict[str, OwnerDocuments] = {}  # the most recently served owner is last
        self._size = 0
        self._locks = OwnerLocks()

    @contextmanager
    def of(
        self, owner_id: str, at_least: int = 0, visit: Visit | None = None
    ) -> Iterator[OwnerDocuments]:
        """Yield the current documents; only this thread may use them until the ``with`` ends.

        Args:
            owner_id: the owner.
            at_least: a clock that the client was told, so the log must have reached it; a replica
                that lags is not used then. The client has seen the log below it.
            visit: the request of a named device, which is admitted here.

        Raises:
            LogicalClockError: the log that the client has not seen was folded, so it must pull
                everything again.
            BusyError: another request of this owner took too long.
            InvalidDiffError: devices without a name are refused, and this client has none.
            ValueError: the Synchronizer returned rows that are not a log of this owner.
            Exception: what the admission of a named device raises.
        """
        if visit is None and not self._mobync.anonymous_devices:
            raise InvalidDiffError(
                "this server accepts only devices that name themselves, and this client does not"
            )
        with self._held(owner_id):
            kept = self._taken_out(owner_id)  # and not put back if an error occurs
            followed = self._followed(owner_id, kept, at_least, visit)
            yield followed
            self._put_back(owner_id, followed)

    def _held(self, key: Hashable) -> Hold:
        waiting = self._mobync.synchronizer._waiting
        return self._locks.hold(key, self._mobync.lock_timeout_s, waiting)

    def as_of(self, owner_id: str, clock: int) -> OwnerDocuments:
        """The documents as they were before the diff of a clock; reads the whole log."""
        rows = in_transaction(self._mobync, owner_id, partial(_rows, first_clock=0))
        then = OwnerDocuments()
        then.follow([row for row in rows if row[Diff.LOGICAL_CLOCK] < clock], None)
        return then

    def _followed(
        self, owner_id: str, kept: OwnerDocuments, at_least: int, visit: Visit | None
    ) -> OwnerDocuments:
        mobync, synchronizer = self._mobync, self._mobync.synchronizer
        writes_nothing = (
            visit is not None
            or not keeps_devices(synchronizer)
            or is_noted(mobync, owner_id, synchronizer)
        )
        reading = (
            plain_answer("reading", synchronizer.reading(owner_id)) if writes_nothing else None
        )
        if reading is not None:
            device = OWNER if visit is None else visit.name
            window = synchronizer._reading_window(
                reading, owner_id, kept.next_read, kept.clock - 1, device=device
            )
            with window as store:
                log = OwnerLog(store, mobync.diffs_model_name, owner_id)
                rows, highest = _rows(log, kept.next_read), log.highest_clock()
                is_followed = kept.follow(rows, highest, _horizon(log))
                if is_followed and kept.clock >= at_least:
                    _admit(mobync, log, kept, at_least, visit)
                    return kept
        followed = partial(_followed_in, mobync=mobync, kept=kept, at_least=at_least, visit=visit)
        return in_transaction(mobync, owner_id, followed)

    def _taken_out(self, owner_id: str) -> OwnerDocuments:
        with self._held(_ALL):
            kept = self._kept.pop(owner_id, None)
            if kept is None:
                return OwnerDocuments()
            self._size -= kept.size
            return kept

    def _put_back(self, owner_id: str, documents: OwnerDocuments) -> None:
        with self._held(_ALL):
            self._kept[owner_id] = documents
            self._size += documents.size
            while self._size > self._max_bytes:
                longest_ago = next(iter(self._kept))
                self._size -= self._kept.pop(longest_ago).size


def _followed_in(
    log: OwnerLog, mobync: Mobync, kept: OwnerDocuments, at_least: int, visit: Visit | None
) -> OwnerDocuments:
    highest = log.highest_clock()
    if not kept.follow(_rows(log, kept.next_read), highest, _horizon(log)):
        kept = OwnerDocuments()
        kept.follow(_rows(log, 0), highest)
    _admit(mobync, log, kept, at_least, visit)
    return kept


def _admit(
    mobync: Mobync,
    log: OwnerLog,
    documents: OwnerDocuments,
    seen_clock: int,
    visit: Visit | None,
) -> None:
    """Admit a client; for compaction it may count as a device without a name."""
    if visit is not None and visit.admit(log.store, documents.clock):
        return
    if keeps_devices(log.store):
        highest = documents.clock - 1
        admit_nameless(mobync, log.store, log.owner_id, seen_clock, seen_clock, 0, highest, False)


def _horizon(log: OwnerLog) -> int:
    kept = read_states(log.store, log.owner_id, OWNER) if keeps_devices(log.store) else None
    return OwnerState.of_text(kept[OWNER]).horizon if kept and OWNER in kept else 0


def _rows(log: OwnerLog, first_clock: int) -> list[Mapping[str, Any]]:
    """The rows of a log from a clock on, checked."""
    rows = log.rows(first_clock)
    try:
        _core.check_log(rows, log.owner_id, first_clock)
    except InvalidDiffError as damage:
        raise log.damaged(damage) from damage
    return rows
