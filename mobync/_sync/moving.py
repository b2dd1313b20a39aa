"""Gives one owner's rows and log to another owner: a guest who signs in.

The diffs of live objects are added at the end of the new owner's log, in their order, with their
ids and times. Their clocks grow by one number, the shift. So each clock of the old log has a clock
in the new log:

    log of old      0 1 2 3 4                          a device with clock 3 has seen 0 to 2
    log of new      0 1 2 ... 7 | 8 9 10 11 12         shift 8: it has seen 8 to 10

A named device of the old owner starts over, and its edits are merged as those of a device that has
seen that part of the log (devices.py). The server cannot tell the old owner's devices without a
name from the new owner's, so none of them may ask from below the end (owner_state.py). No clock
that was given before is that high, because the shift is above the clocks of both logs.

If both owners have a live object with the same id, it is one object only if the app says so. Then
the old owner's edits are merged into the new owner's object, field by field and by time, like those
of a device.

The logs are read in pieces. Memory grows with the number of objects, whose ids are noted, also of
dead ones, and not with their diffs.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby, islice
from operator import itemgetter
from typing import Any, NamedTuple, TypeVar

from .. import _core
from .._waiting import RETRY_PAUSES_S
from ..errors import SameIdError
from ..synchronizer import Synchronizer
from ..types import FIELD_TIMES, LOG_FIELDS, Diff, FilterType, MoveResult, ReadFilter
from .attempts import OwnerLog, pause_before_again, plain_answer
from .backend_edits import json_text
from .devices import Device
from .filling import Filling, begin_filling, begin_giving, members_text
from .known_devices import states_of
from .logged_objects import LARGEST_PIECE_CLOCKS, PIECE_CLOCKS, Key
from .marks import fingerprint
from .owner_state import OWNER, OwnerState, first_state
from .parts import drop_parts

PIECE_ROWS = 1000  # diffs that are written together
MERGED_OBJECTS = 10_000  # objects that both have, whose diffs are in memory together
DEAD = -1
ID_BITS = 23  # of the numbers of bits in a set of ids, which takes 1 MiB

T = TypeVar("T")
LoggedRow = Mapping[str, Any]
Diffs = dict[Key, list[LoggedRow]]
"""The diffs of the life that each object is in."""


class Moved(NamedTuple):
    """The result of a transaction, and what to tell the listeners."""

    result: MoveResult
    reports: list[tuple[Any, ...]]


def move_all(
    server: _core.Mobync, old_owner_id: str, new_owner_id: str, same: Collection[str]
) -> Moved:
    """Give all data of one owner to another, in one transaction of both.

    Args:
        server: the Mobync with the synchronizer, the locks and the timeout.
        old_owner_id: the owner who has the data.
        new_owner_id: the owner who gets it.
        same: the models whose objects are the same if their ids are.

    Raises:
        SameIdError: both owners have an object with the same id in another model.
        NotImplementedError: the Synchronizer does not have ``moving``, or does not store devices.
        BusyError: another transaction of one of them took too long.
    """
    moved = _with_both(
        server, old_owner_id, new_owner_id, lambda old, new: _Move(server, old, new, same).run()
    )
    for owner_id in (old_owner_id, new_owner_id):
        server._noted.pop(owner_id, None)
    return moved


def _with_both(
    server: _core.Mobync,
    old_owner_id: str,
    new_owner_id: str,
    work: Callable[[OwnerLog, OwnerLog], T],
) -> T:
    """Do work alone with the data of two owners, all or nothing.

    Both are locked in the order of their ids, so two moves in opposite directions cannot block each
    other.
    """
    store: Synchronizer = server.synchronizer
    first, second = sorted((old_owner_id, new_owner_id))
    pauses_s = iter(RETRY_PAUSES_S)
    hold, timeout_s, waiting = server._locks.hold, server.lock_timeout_s, store._waiting
    with hold(first, timeout_s, waiting), hold(second, timeout_s, waiting):
        while True:
            moving = plain_answer("moving", store.moving(old_owner_id, new_owner_id))
            if moving is None:
                raise NotImplementedError(
                    f"{type(store).__name__} does not offer moving: it cannot hold two owners in "
                    "one transaction (a subclass with its own transaction overrides moving, too)"
                )
            try:
                with moving as (old, new):
                    model = server.diffs_model_name
                    done = work(
                        OwnerLog(old, model, old_owner_id), OwnerLog(new, model, new_owner_id)
                    )
                return done
            except Exception as error:
                if not pause_before_again(server, error, pauses_s):
                    raise


class _Move:
    """One move, inside its transaction; ``run`` does it.

    It reads the old owner's log twice, and the new owner's once: first which objects are alive,
    then the diffs, which are written as they are read. Objects that both have cost one more look at
    both logs for each ``MERGED_OBJECTS``.
    """

    def __init__(
        self, server: _core.Mobync, old: OwnerLog, new: OwnerLog, same: Collection[str]
    ) -> None:
        self._server = server
        self._old, self._new = old, new
        self._same = same
        self._heads = 0, 0
        self._lives, self._others = _Lives(), _Lives()
        self._alive: list[Key] = []
        self._taken: set[str] = set()  # ids in the new log; all that the old log has, too
        self._has_log = False  # the old owner

    def run(self) -> Moved:
        told = [report for log in (self._old, self._new) if (report := self._log_notes(log))]
        kept, there = states_of(self._old), states_of(self._new)
        self._heads = heads = _highest(self._old), _highest(self._new)
        self._look()
        both = [key for key in self._alive if self._others.is_alive(key)]
        self._check_same(both)
        giving = self._begin_giving(both)
        counts = self._move_rows(both)
        shared = set(both)
        starts = [self._lives.starts[key] for key in self._alive if key not in shared]
        base = max(heads)
        shift = base + 1 - min(starts, default=0)
        diffs, end = self._move_log(shared, shift)
        for begin in range(0, len(both), MERGED_OBJECTS):
            written = self._merge(both[begin : begin + MERGED_OBJECTS], end)
            diffs, end = diffs + written, end + written
        if giving is not None:
            written = len(giving.finish(end))
            diffs, end = diffs + written, end + written
        devices = self._write_states(kept, there, heads, shift, end)
        result = MoveResult(
            self._old.owner_id, self._new.owner_id, counts, diffs, len(both), devices
        )
        if result.diffs:
            told.append((self._new.owner_id, end, result.diffs, result.diffs))
        return Moved(result, told)

    # ---- what there is -----------------------------------------------------------------------

    def _log_notes(self, log: OwnerLog) -> Any:
        """Turn notes of rows that something else has written into diffs first."""
        if log.store.capture is None:
            return None
        server: Any = self._server
        return server._log_noted(log.store, log.owner_id)

    def _look(self) -> None:
        """Find out which objects are alive, and which diffs may have an id that is taken."""
        ids = _SomeIds()
        self._lives = _Lives(self._given_models())
        for row in _in_order(self._old, self._heads[0]):
            self._has_log = True
            self._lives.take(row)
            ids.add(row[Diff.ID])
        self._alive = self._lives.alive()
        for row in _in_order(self._new, self._heads[1]) if self._alive else ():
            if row[Diff.ID] in ids:
                self._taken.add(row[Diff.ID])
            if self._lives.is_alive(_key(row)):
                self._others.take(row)

    def _check_same(self, both: Sequence[Key]) -> None:
        """Check that objects with the same id are the same object: the app says so, or they share
        one row, or a device has sent the same diff to both owners.
        """
        doubtful = [key for key in both if key[0] not in self._same]
        if doubtful and (owned := self._owned_models()):
            doubtful = [key for key in doubtful if key[0] in owned]
        unlike: list[Key] = []
        for begin in range(0, len(doubtful), MERGED_OBJECTS):
            keys = doubtful[begin : begin + MERGED_OBJECTS]
            mine, others = self._diffs_of(keys)
            for key in keys:
                ids = {row[Diff.ID] for row in mine[key]}
                if ids.isdisjoint(row[Diff.ID] for row in others[key]):
                    unlike.append(key)
        if unlike:
            raise SameIdError(unlike)

    def _diffs_of(self, keys: Sequence[Key]) -> tuple[Diffs, Diffs]:
        """The diffs of some live objects that both owners have, in each of the logs."""
        return (
            _diffs_of(self._old, self._heads[0], self._lives, keys),
            _diffs_of(self._new, self._heads[1], self._others, keys),
        )

    def _owned_models(self) -> Collection[str]:
        """The models whose rows belong to an owner; empty: the store does not know them."""
        store = self._new.store
        try:
            return list(plain_answer("owned_models", store.owned_models(self._new.owner_id)))
        except NotImplementedError:
            return ()

    # ---- writing -----------------------------------------------------------------------------

    def _given_models(self) -> frozenset[str]:
        """The models of which a trigger may change a row when it is given to another owner."""
        filled = self._new.store.filled_models
        if filled is None:
            return frozenset()
        owned = self._owned_models()
        return frozenset(name for name in owned if name in filled and filled[name].on_each_write)

    def _begin_giving(self, both: Collection[Key]) -> Filling | None:
        """Find out which of the rows that are given a trigger may change."""
        times = dict(self._lives.latest_ms)
        for key in both:
            times.pop(key, None)
        return begin_giving(self._old, self._new, times) if times else None

    def _move_rows(self, both: Collection[Key]) -> Mapping[str, int]:
        """Give the rows; return how many there are of each model."""
        same: dict[str, list[str]] = {}
        for model, id_ in both:
            same.setdefault(model, []).append(id_)
        moved = plain_answer("move_owned", self._old.store.move_owned(self._new.owner_id, same))
        if moved is not None:
            return {model: count for model, count in moved.items() if count}
        counts = Counter(model for model, _ in self._alive)
        counts.subtract(model for model, _ in both)
        return {model: count for model, count in counts.items() if count}

    def _move_log(self, both: Collection[Key], shift: int) -> tuple[int, int]:
        """Move the diffs of live objects, except those that both have, and drop those of dead ones.

        Returns:
            How many were moved, and the next clock of the new log.
        """
        count, end = 0, max(self._heads) + 2
        rows = _in_order(self._old, self._heads[0])
        while piece := list(islice(rows, PIECE_ROWS)):
            alive = [row for row in piece if self._lives.has(row)]
            moved = [
                _moved(row, self._new, _clock(row) + shift, self._taken)
                for row in alive
                if _key(row) not in both
            ]
            waiting = {row[Diff.ID] for row in alive if _key(row) in both}
            self._drop(row for row in piece if row[Diff.ID] not in waiting)
            self._append(moved)
            count += len(moved)
            end = max([end, *(row[Diff.LOGICAL_CLOCK] + 1 for row in moved)])
        return count, end

    def _merge(self, keys: Sequence[Key], clock: int) -> int:
        """Merge the old owner's edits of some objects into the new owner's.

        Args:
            keys: objects that both have.
            clock: the next one of the new log.

        Returns:
            How many diffs the new log got.
        """
        mine, others = self._diffs_of(keys)
        for life in mine.values():
            self._drop(life)
        merged = _merged([mine[key] for key in keys], [others[key] for key in keys], self._taken)
        rows = self._writable(merged)
        edits = [_moved(row, self._new, place, set()) for place, row in enumerate(rows, clock)]
        filling = self._begin_filling(edits)
        for model, run in groupby(edits, key=itemgetter(Diff.MODEL)):
            texts = [row[Diff.JSON_DATA] for row in run]
            plain_answer("update_many", self._new.store.update_many(model, texts))
        self._append(edits)
        filled = [] if filling is None else filling.finish(clock + len(edits))
        return len(edits) + len(filled)

    def _writable(self, edits: Iterable[LoggedRow]) -> Iterator[LoggedRow]:
        """The updates without the fields that only the database writes; it fills them in again."""
        store = self._new.store
        for row in edits:
            model = row[Diff.MODEL]
            is_filled = model in (store.filled_models or {})
            made = set(store._generated_fields(model)) if is_filled else set()
            members = dict(_core.members(row[Diff.JSON_DATA]))
            kept = {name: text for name, text in members.items() if name not in made}
            if len(kept) == len(members):
                yield row
            elif kept.keys() > {Diff.ID}:
                yield {**row, Diff.JSON_DATA: members_text(kept)}

    def _begin_filling(self, edits: Sequence[LoggedRow]) -> Filling | None:
        """Find out which of the rows that edits change the database may fill in."""
        store = self._new.store
        if store.filled_models is None:
            return None
        names = Diff.TYPE, Diff.MODEL, Diff.JSON_DATA, Diff.UTC_TIMESTAMP
        texts: Any = [tuple(row[name] for name in names) for row in edits]
        return begin_filling(self._server, store, self._new.owner_id, texts, is_push=True)

    def _drop(self, rows: Iterable[LoggedRow]) -> None:
        """Delete rows of the old log."""
        log = self._old
        gone = [json_text({Diff.ID: row[Diff.ID], Diff.OWNER: log.owner_id}) for row in rows]
        for begin in range(0, len(gone), PIECE_ROWS):
            piece = gone[begin : begin + PIECE_ROWS]
            plain_answer("delete_many", log.store.delete_many(log.model, piece))

    def _append(self, rows: Sequence[LoggedRow]) -> None:
        """Append rows to the new log."""
        new = self._new
        keeps_times = plain_answer("keeps_field_times", new.store.keeps_field_times())
        for begin in range(0, len(rows), PIECE_ROWS):
            piece = rows[begin : begin + PIECE_ROWS]
            values: Any = [tuple(row[name] for name in LOG_FIELDS) for row in piece]
            plain_answer("append_log", new.store.append_log(new.model, values))
            timed = [
                json_text({name: row[name] for name in (Diff.ID, Diff.OWNER, FIELD_TIMES)})
                for row in piece
                if row.get(FIELD_TIMES) is not None
            ]
            if timed and keeps_times:
                plain_answer("update_many", new.store.update_many(new.model, timed))

    def _write_states(
        self,
        kept: Mapping[str, str],
        there: Mapping[str, str],
        heads: tuple[int, int],
        shift: int,
        end: int,
    ) -> int:
        """Let the old owner's devices continue under the new one; return how many there are."""
        left, arrived = _devices(kept, there, shift)
        now_ms, old_head = self._server._now_ms(), heads[0]
        old, new = _owner_state(kept, now_ms, old_head), _owner_state(there, now_ms, heads[1])
        is_known = old.nameless_ms is not None and old.nameless_from <= old_head
        # Devices may come that this server does not know: it forgot them, or is itself a backup.
        new.succeed(*old.predecessors, fingerprint(self._old.owner_id))
        if not (self._has_log or left or is_known):
            state = {OWNER: new.to_text()}
            plain_answer("write_devices", self._new.store.write_devices(self._new.owner_id, state))
            return 0
        if old_head >= 0:
            new.moved = max(new.moved, shift + old.moved)
            plain_answer("raise_clock", self._old.store.raise_clock(old_head + 1))
            old.horizon = old_head + 2  # below which nothing is left
        if is_known:
            plain_answer("raise_clock", self._new.store.raise_clock(end - 1))
            new.folds = old.folds = max(old.folds, new.folds) + 1
            new.nameless_from, old.nameless_from = end, old_head + 2
        if plain_answer("keeps_parts", self._old.store.keeps_parts()):
            drop_parts(self._old.store, self._old.owner_id, None)
            for name in arrived.keys() & there.keys():
                drop_parts(self._new.store, self._new.owner_id, name)
        left[OWNER], arrived[OWNER] = old.to_text(), new.to_text()
        for log, states in ((self._old, left), (self._new, arrived)):
            plain_answer("write_devices", log.store.write_devices(log.owner_id, states))
        return sum(name != OWNER and not Device.of_text(arrived[name]).revoked for name in arrived)


# ---- logs ----------------------------------------------------------------------------------------


def _highest(log: OwnerLog) -> int:
    highest = log.highest_clock()
    if highest is None:
        highest = max(map(_clock, log.rows(0)), default=-1)
    return highest


def _in_order(log: OwnerLog, highest: int) -> Iterator[LoggedRow]:
    """An owner's log in its order, read in pieces if the store can read pieces."""
    in_pieces = log.highest_clock() is not None
    first, size = 0, PIECE_CLOCKS
    while first <= highest:
        end = min(first + size, highest + 1) if in_pieces else highest + 1
        before = [ReadFilter(Diff.LOGICAL_CLOCK, FilterType.minor, end)] if in_pieces else []
        rows = log.rows(first, *before)
        _core.check_log(rows, log.owner_id, first)
        yield from sorted(rows, key=_clock)
        size = PIECE_CLOCKS if rows else min(size * 2, LARGEST_PIECE_CLOCKS)
        first = end


class _Lives:
    """The life that each object of a log is in. It holds ids and numbers, and no diffs.

    Args:
        timed: models of whose objects the last edit's time is wanted.

    Attributes:
        starts: the clock of the first diff of each object's life; DEAD: the object is dead.
        latest_ms: the time of the last edit of each object of the ``timed`` models.
    """

    def __init__(self, timed: Collection[str] = ()) -> None:
        self.starts: dict[Key, int] = {}
        self.latest_ms: dict[Key, int] = {}
        self._timed = timed

    def take(self, row: LoggedRow) -> None:
        """Take the next row of the log."""
        key, kind = _key(row), row[Diff.TYPE]
        start = self.starts.get(key)
        if kind == "delete":
            self.starts[key] = DEAD
            self.latest_ms.pop(key, None)
        elif start is None or (start == DEAD and kind == "create"):
            self.starts[key] = _clock(row)
        if key[0] in self._timed and self.is_alive(key):
            time_ms = int(row[Diff.UTC_TIMESTAMP])
            self.latest_ms[key] = max(self.latest_ms.get(key, time_ms), time_ms)

    def is_alive(self, key: Key) -> bool:
        return self.starts.get(key, DEAD) != DEAD

    def has(self, row: LoggedRow) -> bool:
        """Whether a row of the log belongs to the life that its object is in."""
        start = self.starts.get(_key(row), DEAD)
        return start != DEAD and _clock(row) >= start

    def alive(self) -> list[Key]:
        """The live objects, in the order in which their lives began."""
        return sorted(filter(self.is_alive, self.starts), key=self.starts.__getitem__)


class _SomeIds:
    """A set of ids that takes no more memory as it grows; it may claim to have some other ids, too.

    It is a Bloom filter: each id sets two bits.
    """

    def __init__(self) -> None:
        self._bits = bytearray(1 << ID_BITS >> 3)

    def add(self, id_: str) -> None:
        for bit in self._bits_of(id_):
            self._bits[bit >> 3] |= 1 << (bit & 7)

    def __contains__(self, id_: str) -> bool:
        return all(self._bits[bit >> 3] & 1 << (bit & 7) for bit in self._bits_of(id_))

    def _bits_of(self, id_: str) -> tuple[int, ...]:
        hashed, last = hash(id_), (1 << ID_BITS) - 1
        return hashed & last, hashed >> ID_BITS & last


def _diffs_of(log: OwnerLog, highest: int, lives: _Lives, keys: Sequence[Key]) -> Diffs:
    """The diffs of the lives of some objects."""
    found: Diffs = {key: [] for key in keys}
    for row in _in_order(log, highest):
        key = _key(row)
        if key in found and lives.has(row):
            found[key].append(row)
    return found


def _key(row: LoggedRow) -> Key:
    return row[Diff.MODEL], _core.text_member(row[Diff.JSON_DATA], Diff.ID) or ""


def _clock(row: LoggedRow) -> int:
    return int(row[Diff.LOGICAL_CLOCK])


def _moved(row: LoggedRow, new: OwnerLog, clock: int, taken: set[str]) -> dict[str, Any]:
    """A row of the old log as a row of the new log; it gets a new id if the id is taken there."""
    id_ = str(uuid.uuid4()) if row[Diff.ID] in taken else row[Diff.ID]
    return {**row, Diff.ID: id_, Diff.OWNER: new.owner_id, Diff.LOGICAL_CLOCK: clock}


# ---- objects that both have ------------------------------------------------------------------


def _merged(lives: Sequence[list[LoggedRow]], others: Any, taken: set[str]) -> list[Any]:
    """The old owner's edits that the new owner's objects lack, as updates of these objects.

    Args:
        lives: the old owner's diffs of each object.
        others: the new owner's diffs of each object.
        taken: ids of diffs that the new log has.
    """
    edits: list[Any] = []
    for life, other in zip(lives, others, strict=True):
        known = {row[Diff.ID] for row in other}
        for row in life:
            is_taken = row[Diff.ID] in taken - known
            edits += _as_sent({**row, Diff.ID: str(uuid.uuid4())} if is_taken else row)
    window = [row for other in others for row in other]
    return _core.merge(window, edits)[0]


def _as_sent(row: LoggedRow) -> list[dict[str, Any]]:
    """A row of the log as a device would send it: fields with other times become other diffs."""
    plain = {name: row[name] for name in LOG_FIELDS}
    times = json.loads(row.get(FIELD_TIMES) or "{}")
    if not times:
        return [plain]
    members = _core.members(row[Diff.JSON_DATA])
    by_time: dict[int, list[str]] = {}
    for name, text in members:
        if name != Diff.ID:
            time_ms = int(times.get(name, row[Diff.UTC_TIMESTAMP]))
            by_time.setdefault(time_ms, []).append(f"{json.dumps(name)}: {text}")
    id_ = f'"id": {dict(members)[Diff.ID]}'
    first, *rest = sorted(by_time) or [row[Diff.UTC_TIMESTAMP]]

    def sent(time_ms: int, **changed: Any) -> dict[str, Any]:
        text = "{" + ", ".join([id_, *by_time.get(time_ms, ())]) + "}"
        return {**plain, Diff.UTC_TIMESTAMP: time_ms, Diff.JSON_DATA: text, **changed}

    updates = [sent(time_ms, id=str(uuid.uuid4()), type="update") for time_ms in rest]
    return [sent(first), *updates]


# ---- devices -------------------------------------------------------------------------------------


def _owner_state(kept: Mapping[str, str], now_ms: int, highest: int) -> OwnerState:
    if OWNER in kept:
        return OwnerState.of_text(kept[OWNER])
    return first_state(now_ms, log_is_empty=highest < 0)


def _devices(
    kept: Mapping[str, str], there: Mapping[str, str], shift: int
) -> tuple[dict[str, str], dict[str, str]]:
    """The new states of the old owner's devices, by name: under the old owner, and under the new
    one.
    """
    left, arrived = {}, {}
    for name, text in kept.items():
        device = Device() if name == OWNER else Device.of_text(text)
        if name == OWNER or device.left:
            continue
        if not device.revoked:
            left[name] = _left(device).to_text()
        if device.client:
            continue  # its protocol cannot express this: it starts over there
        if name not in there or _gives_way(Device.of_text(there[name]), device):
            arrived[name] = _arrived(device, shift).to_text()
    return left, arrived


def _left(device: Device) -> Device:
    """The state of a device under its old owner."""
    return Device(label=device.label, first_ms=device.first_ms, seen_ms=device.seen_ms, left=True)


def _arrived(device: Device, shift: int) -> Device:
    """The state of a device under its new owner: its marks and its last request stay valid."""
    device.moved = shift + (device.moved or 0)
    device.hold = None
    device.page_asked, device.page_stamps = 0, []
    device.upload = ""  # its parts do not move: it sends them again
    return device


def _gives_way(there: Device, device: Device) -> bool:
    """Whether the new owner's state of a name is older than the old owner's."""
    return not there.revoked and (there.left or there.seen_ms <= device.seen_ms)
