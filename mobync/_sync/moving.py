"""One owner's rows and log, given to another owner: a guest who signs in.

The diffs of the objects that live go behind the new owner's log, in their order, with their ids
and times.  Each keeps its clock but for a number that is added to all of them, the shift.  So a
clock of the old log becomes one of the new log:

    log of old      0 1 2 3 4                          a device with clock 3 has seen 0 to 2
    log of new      0 1 2 ... 7 | 8 9 10 11 12         shift 8: it has seen 8 to 10

A device of the old owner that names itself starts over, and its edits are merged as those of one
that has seen so much (devices.py).  One without a name cannot be told from one of the new owner, so
none may ask from below the end (owner_state.py).  No clock that was given before reaches there: the
shift is above both logs' clocks.

An object that both owners have alive is one object only if the app says so.  Then the old owner's
edits are merged into the new owner's object, by field and by time, as a device's would be.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple, TypeVar

from .. import _core
from ..errors import SameIdError
from ..synchronizer import Synchronizer
from ..types import FIELD_TIMES, LOG_FIELDS, Diff, FilterType, MoveResult, ReadFilter
from .attempts import RETRY_PAUSES_S, OwnerLog, pause_before_again, plain_answer
from .backend_edits import json_text
from .devices import Device
from .filling import Filling, begin_filling, begin_giving, members_text
from .known_devices import states_of
from .logged_objects import LARGEST_PIECE_CLOCKS, PIECE_CLOCKS, Key
from .owner_state import OWNER, OwnerState, first_state
from .parts import drop_parts

PIECE_ROWS = 1000  # that are written at once

T = TypeVar("T")
LoggedRow = Mapping[str, Any]
Lives = dict[Key, list[LoggedRow]]
"""The diffs of the life that each object is in."""


class Moved(NamedTuple):
    """What a transaction did, and what is to be told of it."""

    result: MoveResult
    reports: list[tuple[Any, ...]]


def move_all(
    server: _core.Mobync, old_owner_id: str, new_owner_id: str, same: Collection[str]
) -> Moved:
    """Give all that is one owner's to another, in one transaction of both.

    Args:
        server: whose synchronizer, locks and time-out.
        old_owner_id: from whom.
        new_owner_id: to whom.
        same: the models whose objects are the same if their ids are.

    Raises:
        SameIdError: both have an object of the same id, of another model than these.
        NotImplementedError: the Synchronizer does not offer ``moving``, or keeps no devices.
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

    Both are locked in the order of their ids, so that two that move against each other do not wait
    for each other.
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
                    "one transaction"
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
    """One move, inside of its transaction; ``run`` does it."""

    def __init__(
        self, server: _core.Mobync, old: OwnerLog, new: OwnerLog, same: Collection[str]
    ) -> None:
        self._server = server
        self._old, self._new = old, new
        self._same = same
        self._old_ids: list[str] = []  # of all its diffs

    def run(self) -> Moved:
        told = [report for log in (self._old, self._new) if (report := self._log_notes(log))]
        kept, there = states_of(self._old), states_of(self._new)
        heads = _highest(self._old), _highest(self._new)
        lives = _lives(self._noting(_in_order(self._old, heads[0])))
        others, taken = self._look_at_new(lives, heads[1])
        both = [key for key in lives if key in others]
        self._check_same(both, lives, others)
        merged = _merged([lives.pop(key) for key in both], [others[key] for key in both], taken)
        merged = list(self._writable(merged))
        rows = sorted((row for life in lives.values() for row in life), key=_clock)
        base = max(heads)
        shift = base + 1 - (_clock(rows[0]) if rows else 0)
        moved = [_moved(row, self._new, _clock(row) + shift, taken) for row in rows]
        end = max([base + 2, *(row[Diff.LOGICAL_CLOCK] + 1 for row in moved)])
        edits = [_moved(row, self._new, clock, set()) for clock, row in enumerate(merged, end)]
        end += len(edits)
        fillings = self._begin_filling(edits, lives)
        counts = self._write_rows(both, edits, lives)
        self._write_logs(moved + edits)
        begin, end = end, self._fill(fillings, end)
        devices = self._write_states(kept, there, heads, shift, end)
        result = MoveResult(
            self._old.owner_id,
            self._new.owner_id,
            counts,
            len(moved) + len(edits) + end - begin,
            len(both),
            devices,
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

    def _noting(self, rows: Iterable[LoggedRow]) -> Iterator[LoggedRow]:
        for row in rows:
            self._old_ids.append(row[Diff.ID])
            yield row

    def _look_at_new(self, lives: Lives, highest: int) -> tuple[Lives, set[str]]:
        """What the new log says of the same objects, and which ids of the old diffs it has."""
        ids = {row[Diff.ID] for life in lives.values() for row in life}
        taken: set[str] = set()

        def rows() -> Iterator[LoggedRow]:
            for row in _in_order(self._new, highest) if ids else ():
                if row[Diff.ID] in ids:
                    taken.add(row[Diff.ID])
                if _key(row) in lives:
                    yield row

        return _lives(rows()), taken

    def _check_same(self, both: Sequence[Key], lives: Lives, others: Lives) -> None:
        """Check that objects of the same id are the same: the app says so, or their rows are one,
        or a device has sent the same diff to both owners."""
        owned: Collection[str] | None = None
        unlike = []
        for key in both:
            if key[0] in self._same:
                continue
            owned = self._owned_models() if owned is None else owned
            is_shared = bool(owned) and key[0] not in owned
            ids = {row[Diff.ID] for row in lives[key]}
            if not is_shared and ids.isdisjoint(row[Diff.ID] for row in others[key]):
                unlike.append(key)
        if unlike:
            raise SameIdError(unlike)

    def _owned_models(self) -> Collection[str]:
        """The models whose rows belong to an owner; empty: the store does not say."""
        store = self._new.store
        try:
            return list(plain_answer("owned_models", store.owned_models(self._new.owner_id)))
        except NotImplementedError:
            return ()

    # ---- writing -----------------------------------------------------------------------------

    def _writable(self, edits: Iterable[LoggedRow]) -> Iterator[LoggedRow]:
        """Updates without what only the database writes: it makes that of the rest."""
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

    def _begin_filling(self, edits: Sequence[LoggedRow], lives: Lives) -> list[Filling]:
        """Note what may have more than is written, of objects that are changed or given."""
        if self._new.store.filled_models is None:
            return []
        server, store, owner_id = self._server, self._new.store, self._new.owner_id
        names = Diff.TYPE, Diff.MODEL, Diff.JSON_DATA, Diff.UTC_TIMESTAMP
        texts: Any = [tuple(row[name] for name in names) for row in edits]
        owned = self._owned_models()
        times = {
            key: max(int(row[Diff.UTC_TIMESTAMP]) for row in life)
            for key, life in lives.items()
            if key[0] in owned
        }
        changed = begin_filling(server, store, owner_id, texts, is_push=True)
        given = begin_giving(self._old, self._new, times)
        return [filling for filling in (changed, given) if filling is not None]

    def _fill(self, fillings: Sequence[Filling], clock: int) -> int:
        """Append what rows have by now to the log; returns its next clock."""
        for filling in fillings:
            clock += len(filling.finish(clock))
        return clock

    def _write_rows(
        self, both: Sequence[Key], edits: Sequence[LoggedRow], lives: Lives
    ) -> Mapping[str, int]:
        old, new = self._old.store, self._new.store
        same: dict[str, list[str]] = {}
        for model, id_ in both:
            same.setdefault(model, []).append(id_)
        moved = plain_answer("move_owned", old.move_owned(self._new.owner_id, same))
        for model, run in groupby(edits, key=itemgetter(Diff.MODEL)):
            texts = [row[Diff.JSON_DATA] for row in run]
            plain_answer("update_many", new.update_many(model, texts))
        if moved is not None:
            return {model: count for model, count in moved.items() if count}
        counts: dict[str, int] = {}
        for model, _ in lives:
            counts[model] = counts.get(model, 0) + 1
        return counts

    def _write_logs(self, rows: Sequence[LoggedRow]) -> None:
        old, new = self._old, self._new
        for begin in range(0, len(self._old_ids), PIECE_ROWS):
            ids = self._old_ids[begin : begin + PIECE_ROWS]
            gone = [json_text({Diff.ID: id_, Diff.OWNER: old.owner_id}) for id_ in ids]
            plain_answer("delete_many", old.store.delete_many(old.model, gone))
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
        """Have the old owner's devices go on under the new one; returns how many do."""
        left, arrived = _devices(kept, there, shift)
        now_ms, old_head = self._server._now_ms(), heads[0]
        old, new = _owner_state(kept, now_ms, old_head), _owner_state(there, now_ms, heads[1])
        is_known = old.nameless_ms is not None and old.nameless_from <= old_head
        if not (self._old_ids or arrived or is_known):
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
    """An owner's log in its order, read in pieces where the store can read one alone."""
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


def _lives(rows: Iterable[LoggedRow]) -> Lives:
    """Of each object that lives, the diffs since it was dead; of rows in the log's order."""
    lives: Lives = {}
    dead: set[Key] = set()
    for row in rows:
        key = _key(row)
        if row[Diff.TYPE] == "delete":
            lives.pop(key, None)
            dead.add(key)
        elif row[Diff.TYPE] == "create" or key not in dead:
            dead.discard(key)
            lives.setdefault(key, []).append(row)
    return lives


def _key(row: LoggedRow) -> Key:
    return row[Diff.MODEL], _core.text_member(row[Diff.JSON_DATA], Diff.ID) or ""


def _clock(row: LoggedRow) -> int:
    return int(row[Diff.LOGICAL_CLOCK])


def _moved(row: LoggedRow, new: OwnerLog, clock: int, taken: set[str]) -> dict[str, Any]:
    """A row of the old log as one of the new; under another id, if that one is taken there."""
    id_ = str(uuid.uuid4()) if row[Diff.ID] in taken else row[Diff.ID]
    return {**row, Diff.ID: id_, Diff.OWNER: new.owner_id, Diff.LOGICAL_CLOCK: clock}


# ---- objects that both have ------------------------------------------------------------------


def _merged(lives: Sequence[list[LoggedRow]], others: Any, taken: set[str]) -> list[Any]:
    """What of the old owner's edits the new owner's objects lack, as updates of these.

    Args:
        lives: of each object, the old owner's diffs.
        others: the new owner's, likewise.
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
    """A row of the log as a device would send it: fields of another time are another diff."""
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
    """What is to be kept of the old owner's devices, by name: where they were, where they go on."""
    left, arrived = {}, {}
    for name, text in kept.items():
        device = Device() if name == OWNER else Device.of_text(text)
        if name == OWNER or device.left:
            continue
        if not device.revoked:
            left[name] = _left(device).to_text()
        if device.client:
            continue  # its protocol has no word for it: it starts over there
        if name not in there or _gives_way(Device.of_text(there[name]), device):
            arrived[name] = _arrived(device, shift).to_text()
    return left, arrived


def _left(device: Device) -> Device:
    """What is kept of a device where it was."""
    return Device(label=device.label, first_ms=device.first_ms, seen_ms=device.seen_ms, left=True)


def _arrived(device: Device, shift: int) -> Device:
    """What is kept of a device where it goes on: its marks and its last request are good still."""
    device.moved = shift + (device.moved or 0)
    device.hold = None
    device.page_asked, device.page_stamps = 0, []
    device.upload = ""  # its parts do not move: it sends them again
    return device


def _gives_way(there: Device, device: Device) -> bool:
    """Whether what the new owner has of a name is older than what the old one has."""
    return not there.revoked and (there.left or there.seen_ms <= device.seen_ms)
