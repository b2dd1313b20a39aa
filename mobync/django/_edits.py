"""What the app's own code did to rows, and how it gets into the logs of their owners.

Before an edit, the owners of the rows that it touches are locked. A sync also locks an owner before
it writes, so both lock in the same order. Then the rows are read. After the edit they are read
again, and the difference goes into the log, all in the transaction of the edit. A rollback, also
one to a savepoint, takes the diffs along with the rows.

While this thread is in a sync, only the sync writes to the log. What the app's code edits meanwhile
goes into the log when the sync has written everything, still in the transaction of the sync.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from django.db import connections, models, transaction

from ..sync import Mobync
from ..synchronizer import same_json
from ..types import Diff
from ._locking import lock_file, lock_head, why_no_log
from ._model import Model, Row

if TYPE_CHECKING:
    from ._synchronizer import DjangoSynchronizer

Source = type[models.Model]
Place = tuple[Source, Any]
"""Where a row is: Django's class of it and its primary key."""

WRITTEN_BY_MOBYNC = "_mobync_writes"  # of an instance while a sync saves or deletes it


class Tracked(NamedTuple):
    """A model whose edits go into the log.

    Attributes:
        mobync: the Mobync that tells its listeners.
        store: the synchronizer of that Mobync.
        model: the model.
        place: the model's place in an order in which no row refers to one that comes later.
    """

    mobync: Mobync
    store: DjangoSynchronizer
    model: Model
    place: int

    @property
    def is_read_back(self) -> bool:
        """Whether a sync reads the rows that it has written again, and logs what it finds."""
        filled = (self.store.filled_models or {}).get(self.model.name)
        return filled is not None and filled.on_each_write


TRACKED: dict[tuple[str, Source], Tracked] = {}
"""By the alias of a database and Django's class."""


class Seen(NamedTuple):
    """A row as it was before an edit.

    Attributes:
        source: Django's class of it.
        key: its primary key.
        owner_id: whose it was; None: nobody's, or there was no row.
        row: its fields as JSON values; None: there was no row.
    """

    source: Source
    key: Any
    owner_id: str | None
    row: Row | None

    @property
    def place(self) -> Place:
        """Where the row is."""
        return self.source, self.key


class Mark:
    """A mark in a transaction: it goes when the transaction ends, or rolls back to before it.

    Args:
        using: the alias of the database, which is in a transaction.
    """

    def __init__(self, using: str) -> None:
        self._using = using
        transaction.on_commit(self, using=using)

    def __call__(self) -> None:
        """Do nothing. Django calls it at the commit, and forgets it at a rollback."""

    @property
    def stands(self) -> bool:
        """Whether the transaction is open, and nothing before the mark was rolled back."""
        calls = reversed(connections[self._using].run_on_commit)
        return any(call[1] is self for call in calls)


class _Edit(NamedTuple):
    """What goes into the log of an owner."""

    tracked: Tracked
    owner_id: str
    kind: str
    row: Row


def look(
    using: str,
    places: Sequence[Place],
    owners: Collection[str | None],
    *,
    ahead: bool,
    locked: set[str | None] | None = None,
) -> list[Seen]:
    """Lock the owners of rows that will be edited, then the rows; return the rows as they are now.

    Args:
        using: the alias of the database, which is in a transaction.
        places: the places of the rows.
        owners: who is known to own one of the rows before or after the edit.
        ahead: whether a row may belong to somebody else, so that all owners must be found out
            first.
        locked: who is already locked in this transaction; this adds the owners that it locks.
    """
    locked = set() if locked is None else locked
    if not locked:
        lock_file(using)
    found = _read(using, places) if ahead else []
    _lock(using, {*owners, *(each.owner_id for each in found)}, locked)
    found = _read(using, places, locks=True)
    _lock(using, {each.owner_id for each in found}, locked)
    return found


def _lock(using: str, owners: set[str | None], locked: set[str | None]) -> None:
    for owner_id in sorted(filter(None, owners - locked)):  # in one order, if several are locked
        if why_no_log(using, owner_id) is None:
            lock_head(using, owner_id)
    locked |= owners


def _read(using: str, places: Sequence[Place], *, locks: bool = False) -> list[Seen]:
    by_source: dict[Source, list[Any]] = {}
    for source, key in places:
        by_source.setdefault(source, []).append(key)
    rows = {
        (source, key): found
        for source, wanted in by_source.items()
        for key, found in TRACKED[using, source].model.read_keys(wanted, locks=locks).items()
    }
    return [Seen(*place, *rows.get(place, (None, None))) for place in dict.fromkeys(places)]


# ---- the log ------------------------------------------------------------------------------------


def settle(using: str, seen: Sequence[Seen]) -> Sequence[Seen]:
    """Add to the logs what was done to rows since they were seen, or leave that to the sync.

    Returns:
        The rows, from which the next edits are counted.
    """
    sync = _thread.syncs.get(using)
    if sync is None:
        return _log(using, seen)
    for each in seen:
        noted = sync.noted.get(each.place)
        if noted is None or not noted.mark.stands:
            sync.noted[each.place] = _Noted(each, Mark(using))
    return seen


def _log(using: str, seen: Sequence[Seen]) -> Sequence[Seen]:
    by_log: dict[tuple[str, Mobync], list[_Edit]] = {}
    now = _read(using, [each.place for each in seen])
    for edit in _edits(using, seen, now):
        if why_no_log(using, edit.owner_id) is None:
            by_log.setdefault((edit.owner_id, edit.tracked.mobync), []).append(edit)
    for (owner_id, mobync), edits in sorted(by_log.items(), key=lambda each: each[0][0]):
        store = edits[0].tracked.store._joining(owner_id)
        operations = [(edit.kind, edit.tracked.model.name, edit.row) for edit in edits]
        report = mobync._log_edits(store, owner_id, operations)
        transaction.on_commit(partial(mobync._tell_when_free, report), using=using)
    return now


def _edits(using: str, seen: Sequence[Seen], now: Sequence[Seen]) -> list[_Edit]:
    """The edits in an order in which a row that others refer to is made first, and deleted last."""
    made, gone = [], []
    for before, after in zip(seen, now, strict=True):
        tracked = TRACKED[using, before.source]
        is_same_owner = before.owner_id == after.owner_id
        if before.owner_id is not None and before.row is not None and not is_same_owner:
            key = {Diff.ID: before.row[Diff.ID]}
            gone.append(_Edit(tracked, before.owner_id, "delete", key))
        if after.owner_id is None or after.row is None:
            continue
        if before.row is None or not is_same_owner:
            made.append(_Edit(tracked, after.owner_id, "create", after.row))
        elif changed := _changed(before.row, after.row):
            row = {Diff.ID: after.row[Diff.ID], **changed}
            made.append(_Edit(tracked, after.owner_id, "update", row))
    made.sort(key=lambda edit: edit.tracked.place)
    gone.sort(key=lambda edit: -edit.tracked.place)
    return made + gone


def _changed(before: Row, after: Row) -> Row:
    return {f: value for f, value in after.items() if not same_json(before[f], value)}


# ---- saves that are under way -------------------------------------------------------------------


class _Save:
    """A save of an instance.  Its receivers may save or delete other rows, and this one again.

    Args:
        using: the alias of the database.
        seen: the row of the instance before it.
        place: returns where the row is now; None: the database has not made the key yet.
    """

    def __init__(self, using: str, seen: Sequence[Seen], place: Callable[[], Place | None]) -> None:
        self.using = using
        self._place = place
        self._first = {each.place: each for each in seen}
        self._logged: list[tuple[dict[Place, Seen], Mark]] = []

    @property
    def seen(self) -> dict[Place, Seen]:
        """The row as it was when its edits were last brought into the log."""
        while self._logged and not self._logged[-1][1].stands:
            self._logged.pop()  # that log was rolled back
        seen = self._logged[-1][0] if self._logged else self._first
        place = self._place()
        return seen if place is None else {place: Seen(*place, None, None), **seen}

    def settled(self, now: dict[Place, Seen]) -> None:
        """Note what the row is now, and that the log has it."""
        if now != self.seen:
            self._logged.append((now, Mark(self.using)))


@contextmanager
def saving(using: str, seen: Sequence[Seen], place: Callable[[], Place | None]) -> Iterator[None]:
    """Say that this thread saves an instance, as :class:`_Save` has it."""
    above = _thread.saves
    try:
        _thread.saves = (*above, _Save(using, seen, place))
        yield
    finally:
        _thread.saves = above


def settle_saves(using: str) -> None:
    """Add to the log what the running saves have done so far.

    So in the log, a row comes before those that a receiver of its save makes.
    """
    saves = [each for each in _thread.saves if each.using == using]
    if not saves:
        return
    with transaction.atomic(using=using, savepoint=False):
        seen = [each.seen for each in saves]
        together = {place: row for rows in seen for place, row in rows.items()}
        now = {row.place: row for row in settle(using, list(together.values()))}
        for save, rows in zip(saves, seen, strict=True):
            save.settled({place: now[place] for place in rows})


# ---- while a sync runs --------------------------------------------------------------------------


class _Noted(NamedTuple):
    """A row that the app's own code has edited while a sync runs.

    Attributes:
        seen: the row as it was.
        mark: shows whether the edit was rolled back.
    """

    seen: Seen
    mark: Mark


@dataclass
class _Sync:
    """The outermost sync of a thread on a database.

    Attributes:
        noted: the rows that the app's own code has edited meanwhile.
        erased: owners whose rows are ignored, because nothing remains of their logs.
    """

    noted: dict[Place, _Noted] = field(default_factory=dict)
    erased: set[str] = field(default_factory=set)


class _Thread(threading.local):
    def __init__(self) -> None:
        self.syncs: dict[str, _Sync] = {}  # by the alias of their database
        self.saves: tuple[_Save, ...] = ()  # the outermost first


_thread = _Thread()


@contextmanager
def syncing(using: str) -> Iterator[None]:
    """Leave the logs to the code inside, and add the app's edits to them afterwards."""
    if using in _thread.syncs:  # which does it
        yield
        return
    sync = _Sync()
    try:
        _thread.syncs[using] = sync
        yield
    finally:
        _thread.syncs.pop(using, None)
    standing = {id(call[1]) for call in connections[using].run_on_commit}
    seen = [each.seen for each in sync.noted.values() if id(each.mark) in standing]
    if seen:
        _log(using, seen)


def erase(using: str, owner_id: str) -> None:
    """Note that the running sync deletes all data of an owner."""
    _thread.syncs[using].erased.add(owner_id)


def is_erased(using: str, owner_id: str | None) -> bool:
    """Whether a sync is running that deletes all data of an owner."""
    sync = _thread.syncs.get(using)
    return sync is not None and owner_id in sync.erased
