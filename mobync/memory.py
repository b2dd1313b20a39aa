"""A complete store in memory, to try mobync, for tests and for examples."""

from __future__ import annotations

import copy
import copyreg
import json
import math
import threading
from bisect import bisect_left, insort
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from . import _core
from ._sync.attempts import OwnerLog
from ._sync.erasing import erase_by_log
from .errors import IdTakenError, InvalidDiffError
from .synchronizer import Synchronizer
from .types import _COMPARE, LOG_FIELDS, FilterType, LogRow, ReadFilter

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Unpack

    from .types import DiffDict

T = TypeVar("T")

Row = dict[str, Any]

# Names of tables that no diff can have for a model.
_DEVICES = "\0devices"
_PARTS = "\0parts"
_HEADS = "\0heads"  # the owners' clocks, where the log's last row has gone


class MemorySynchronizer(Synchronizer):
    """Stores models and log in memory. Any model name is a table, made at its first use.

    The three rules accept everything: override them in a subclass. A transaction sees its own
    writes, others see them after the commit, and an exception drops them. Each row must belong to
    one owner: if two owners write the same row at once, they are not kept apart. Numbers in rows
    are Python's (the log keeps the exact text of each diff). What Python cannot read, such as
    nesting that is too deep or an integer that is too long, is an InvalidDiffError. So is
    ``create`` with an id that the table already has.

    Args:
        diffs_model_name: the name of the log, as passed to Mobync. Rows of the log are identified
            by owner and id, rows of a model by id.

    Attributes:
        rows_read: rows that ``read`` has returned so far, in and out of transactions.
    """

    _has_only_attributes: ClassVar[bool]

    def __init__(self, diffs_model_name: str = "diffs") -> None:
        _core.check_text("diffs_model_name", diffs_model_name)
        self.diffs_model_name: str = diffs_model_name
        self._database = _Database()
        self._owner_id: str | None = None
        self._changes: _Changes | None = None

    @property
    def rows_read(self) -> int:
        return self._database.rows_read

    def validate_create(self, owner_id: str, **diff: Unpack[DiffDict]) -> bool:
        return True

    def validate_update(self, owner_id: str, **diff: Unpack[DiffDict]) -> bool:
        return True

    def validate_delete(self, owner_id: str, **diff: Unpack[DiffDict]) -> bool:
        return True

    def read(self, where: str, filters: Sequence[ReadFilter] = ()) -> list[Row]:
        """Return copies of the rows that pass all filters, in any order."""
        changed = self._changes.tables.get(where, {}) if self._changes is not None else {}
        return self._database.select(where, list(filters), changed)

    def create(self, where: str, data_json: str) -> None:
        self._insert(where, _read_object(data_json))

    def _insert(self, where: str, row: Row) -> None:
        changes = self._changes
        if changes is None:
            return self._at_once(MemorySynchronizer._insert, where, row)
        key = self._key(where, row)
        if self._database.current(changes, where, key) is not None:
            raise IdTakenError("json_data: id cannot be used")
        if key not in changes.tables.get(where, ()):
            changes.created.add((where, key))
        changes.put(where, key, row)

    def append_log(self, where: str, rows: Sequence[LogRow]) -> None:
        for place, values in enumerate(rows):
            try:
                self._insert(where, dict(zip(LOG_FIELDS, values, strict=True)))
            except InvalidDiffError as misfit:
                misfit.index = place
                raise

    def update(self, where: str, data_json: str) -> None:
        changes = self._changes
        if changes is None:
            return self._at_once(MemorySynchronizer.update, where, data_json)
        fields = _read_object(data_json)
        key = self._key(where, fields)
        row = self._database.current(changes, where, key)
        if row is None:
            return
        if row is changes.tables.get(where, {}).get(key):
            row.update(fields)  # no other transaction has it yet
        else:
            changes.put(where, key, {**row, **fields})

    def delete(self, where: str, data_json: str) -> None:
        changes = self._changes
        if changes is None:
            return self._at_once(MemorySynchronizer.delete, where, data_json)
        key = self._key(where, _read_object(data_json))
        row = self._database.current(changes, where, key)
        if row is None:
            return
        changes.put(where, key, None)
        if where == self.diffs_model_name:
            self._keep_clock(changes, row["owner"], row["logical_clock"])

    def _keep_clock(self, changes: _Changes, owner_id: str, clock: int) -> None:
        head = self._database.current(changes, _HEADS, owner_id)
        if head is None or head["clock"] < clock:
            changes.put(_HEADS, owner_id, {"clock": clock})

    def keeps_clock(self) -> bool:
        return True

    def highest_logical_clock(self, owner_id: str) -> int | None:
        """The owner's highest clock; None if the log has no row."""
        changed = self._changes.tables if self._changes is not None else {}
        if self.diffs_model_name in changed:
            return None
        highest = self._database.highest(self.diffs_model_name, "owner", owner_id, "logical_clock")
        head = self._database.current(self._changes, _HEADS, owner_id)
        return highest if head is None else max(-1 if highest is None else highest, head["clock"])

    def erase_owned(self, owner_id: str) -> dict[str, int]:
        changes = self._changes
        if changes is None:
            return self._at_once(MemorySynchronizer.erase_owned, owner_id)
        counts = erase_by_log(OwnerLog(self, self.diffs_model_name, owner_id))
        changes.put(_HEADS, owner_id, None)
        return counts

    def _key(self, where: str, row: Row) -> Hashable:
        row_id: Hashable = row["id"]
        if where != self.diffs_model_name:
            return row_id
        return row.get("owner", self._owner_id), row_id

    def keeps_field_times(self) -> bool:
        return True

    def read_devices(self, owner_id: str, names: Sequence[str] | None) -> dict[str, str]:
        if names is None:
            mine = [ReadFilter("owner", FilterType.equal, owner_id)]
            found = MemorySynchronizer.read(self, _DEVICES, mine)
            return {row["name"]: row["text"] for row in found}
        rows = ((n, self._database.current(self._changes, _DEVICES, (owner_id, n))) for n in names)
        return {name: row["text"] for name, row in rows if row is not None}

    def write_devices(self, owner_id: str, states: Mapping[str, str | None]) -> None:
        changes = self._changes
        if changes is None:
            return self._at_once(MemorySynchronizer.write_devices, owner_id, states)
        for name, text in states.items():
            row = None if text is None else {"owner": owner_id, "name": name, "text": text}
            changes.put(_DEVICES, (owner_id, name), row)

    def _reads_alone(self) -> bool:
        return type(self).transaction is MemorySynchronizer.transaction

    def keeps_parts(self) -> bool:
        return True

    def write_part(self, owner_id: str, device: str, part: int, pieces: Sequence[str]) -> None:
        changes = self._changes
        if changes is None:
            return self._at_once(MemorySynchronizer.write_part, owner_id, device, part, pieces)
        row = {"owner": owner_id, "device": device, "part": part, "text": "".join(pieces)}
        changes.put(_PARTS, (owner_id, device, part), row)

    def read_parts(self, owner_id: str, device: str) -> list[tuple[int, str]]:
        return sorted((row["part"], row["text"]) for row in self._parts(owner_id, device))

    def _parts(self, owner_id: str, device: str | None) -> list[Row]:
        filters = [ReadFilter("owner", FilterType.equal, owner_id)]
        if device is not None:
            filters.append(ReadFilter("device", FilterType.equal, device))
        return MemorySynchronizer.read(self, _PARTS, filters)

    def drop_parts(self, owner_id: str, device: str | None) -> None:
        changes = self._changes
        if changes is None:
            return self._at_once(MemorySynchronizer.drop_parts, owner_id, device)
        for row in self._parts(owner_id, device):
            changes.put(_PARTS, (owner_id, row["device"], row["part"]), None)

    def transaction(self, owner_id: str) -> AbstractContextManager[MemorySynchronizer]:
        if self._changes is not None:
            raise RuntimeError("a transaction is open already")
        return _Transaction(self, owner_id)

    @contextmanager
    def moving(
        self, old_owner_id: str, new_owner_id: str
    ) -> Iterator[tuple[MemorySynchronizer, MemorySynchronizer]]:
        with self.transaction(old_owner_id) as old:
            new = _copy_store(old)
            new._owner_id = new_owner_id
            yield old, new

    def raise_clock(self, clock: int) -> None:
        assert self._owner_id is not None
        assert self._changes is not None
        self._keep_clock(self._changes, self._owner_id, clock)

    def _at_once(self, method: Callable[..., T], *arguments: object) -> T:
        """Call a method of this class in a transaction of its own."""
        with self._database.lock, _Transaction(self, self._owner_id) as inside:
            return method(inside, *arguments)


# What a class can say about how its objects are copied.
_COPY_METHODS = {"__copy__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__"}
_COPY_METHODS |= {"__new__", "__getnewargs__", "__getnewargs_ex__"}


def _copy_store(store: MemorySynchronizer) -> MemorySynchronizer:
    """What ``copy.copy`` does, in fewer steps for a class that has only attributes."""
    kind = type(store)
    is_plain = kind.__dict__.get("_has_only_attributes")
    if is_plain is None:  # once per class
        has_slots = kind.__basicsize__ != MemorySynchronizer.__basicsize__
        is_plain = not (has_slots or kind in copyreg.dispatch_table) and not any(
            vars(base).keys() & _COPY_METHODS for base in kind.__mro__ if base is not object
        )
        kind._has_only_attributes = is_plain
    if not is_plain:
        return copy.copy(store)
    copied: MemorySynchronizer = object.__new__(kind)
    copied.__dict__.update(store.__dict__)
    return copied


class _Transaction:
    """A context with a store whose writes nobody else sees; leaving the context commits them."""

    def __init__(self, store: MemorySynchronizer, owner_id: str | None) -> None:
        self._changes = _Changes()
        self._inside = _copy_store(store)
        self._inside._owner_id = owner_id
        self._inside._changes = self._changes

    def __enter__(self) -> MemorySynchronizer:
        return self._inside

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self._inside._database.commit(self._changes)


class _Changes:
    """What a transaction has written: the new row by table and key, or None if it is deleted.

    ``created`` has the rows that it made where it saw none; no other transaction may make them.
    """

    def __init__(self) -> None:
        self.tables: dict[str, dict[Hashable, Row | None]] = {}
        self.created: set[tuple[str, Hashable]] = set()

    def put(self, where: str, key: Hashable, row: Row | None) -> None:
        self.tables.setdefault(where, {})[key] = row


class _Database:
    """The committed rows of all tables."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.tables: dict[str, _Table] = {}
        self.rows_read = 0

    def current(self, changes: _Changes | None, where: str, key: Hashable) -> Row | None:
        changed = changes.tables.get(where) if changes is not None else None
        if changed is not None and key in changed:
            return changed[key]
        with self.lock:
            table = self.tables.get(where)
            return table.rows.get(key) if table is not None else None

    def highest(self, where: str, group: str, value: str, field: str) -> int | None:
        """The highest `field` of the rows whose `group` is `value`; -1: no row, None: no table."""
        with self.lock:
            table = self.tables.get(where)
            return None if table is None else table.highest(group, value, field)

    def select(
        self, where: str, filters: list[ReadFilter], changed: dict[Hashable, Row | None]
    ) -> list[Row]:
        with self.lock:
            table = self.tables.get(where)
            found = table.select(filters) if table is not None else []
            if changed:
                old = table.rows if table is not None else {}
                replaced = {id(old[key]) for key in changed if key in old}
                found = [row for row in found if id(row) not in replaced]
                mine = (row for row in changed.values() if row is not None)
                found += [row for row in mine if all(_passes(row, f) for f in filters)]
            self.rows_read += len(found)
        return [_copy_row(row) for row in found]

    def commit(self, changes: _Changes) -> None:
        with self.lock:
            for where, key in changes.created:
                if changes.tables[where][key] is not None and self._row(where, key) is not None:
                    raise IdTakenError("json_data: id cannot be used")
            before: list[tuple[_Table, Hashable, Row | None]] = []
            try:
                for where, rows in changes.tables.items():
                    table = self.tables.get(where) or self.tables.setdefault(where, _Table())
                    for key, row in rows.items():
                        before.append((table, key, table.rows.get(key)))
                        table.put(key, row)
            except BaseException:  # for example KeyboardInterrupt: nothing is written then
                for table, key, row in before:
                    table.put_back(key, row)
                raise

    def _row(self, where: str, key: Hashable) -> Row | None:
        table = self.tables.get(where)
        return table.rows.get(key) if table is not None else None


class _Table:
    """Rows by key, in the order of their creation, with an index for each kind of question."""

    def __init__(self) -> None:
        self.rows: dict[Hashable, Row] = {}
        self._sequence: dict[Hashable, int] = {}
        self._next_sequence = 0
        self._indexes: dict[tuple[tuple[str, ...], str | None], _Index] = {}

    def put(self, key: Hashable, row: Row | None) -> None:
        old = self.rows.get(key)
        if old is not None:
            for index in self._indexes.values():
                index.remove(old, self._sequence[key])
        if row is None:
            self.rows.pop(key, None)
            self._sequence.pop(key, None)
            return
        sequence = self._number(key)
        self.rows[key] = row
        for index in self._indexes.values():
            index.add(row, sequence)

    def _number(self, key: Hashable) -> int:
        """The place of a key in the order of creation, the last one for a new key."""
        self._next_sequence += 1
        return self._sequence.setdefault(key, self._next_sequence)

    def put_back(self, key: Hashable, row: Row | None) -> None:
        """Undo a put that may have stopped anywhere: the indexes are built again when needed."""
        self._indexes.clear()
        if row is None:
            self.rows.pop(key, None)
            self._sequence.pop(key, None)
        else:
            self._number(key)
            self.rows[key] = row

    def highest(self, group: str, value: str, field: str) -> int:
        return self._index((group,), field).highest((_key(value),))

    def select(self, filters: list[ReadFilter]) -> list[Row]:
        equal: dict[str, Any] = {}
        ranges: list[ReadFilter] = []
        rest = []
        for f in filters:
            is_equal = f.filter_by is FilterType.equal
            if is_equal and f.field_name not in equal:
                equal[f.field_name] = f.data
            elif not is_equal and (not ranges or f.field_name == ranges[0].field_name):
                ranges.append(f)
            else:
                rest.append(f)
        if not filters:
            return list(self.rows.values())
        fields = tuple(sorted(equal))
        index = self._index(fields, ranges[0].field_name if ranges else None)
        found = index.find(tuple([_key(equal[name]) for name in fields]), ranges)
        return [row for row in found if all(_passes(row, f) for f in rest)] if rest else found

    def _index(self, fields: tuple[str, ...], range_field: str | None) -> _Index:
        index = self._indexes.get((fields, range_field))
        if index is None:
            index = _Index(fields, range_field)
            for key, row in self.rows.items():
                index.add(row, self._sequence[key])
            self._indexes[fields, range_field] = index
        return index


# What sorts a row, its number, and the row, which is never compared since no other has its number.
_Entry = tuple[tuple[int, Any], int, Row]


class _Index:
    """Rows by the values of some fields, each group sorted by one more field."""

    def __init__(self, fields: tuple[str, ...], range_field: str | None) -> None:
        self._fields = fields
        self._range_field = range_field
        self._groups: dict[tuple[Hashable, ...], list[_Entry]] = {}

    def add(self, row: Row, sequence: int) -> None:
        place = self._place(row)
        if place is not None:
            insort(self._groups.setdefault(self._group(row), []), (place, sequence, row))

    def remove(self, row: Row, sequence: int) -> None:
        place = self._place(row)
        if place is not None:
            group_key = self._group(row)
            group: list[Any] = self._groups[group_key]
            del group[bisect_left(group, (place, sequence))]
            if not group:
                del self._groups[group_key]

    def highest(self, group_key: tuple[Hashable, ...]) -> int:
        group = self._groups.get(group_key)
        return int(group[-1][0][1]) if group else -1

    def find(self, group_key: tuple[Hashable, ...], ranges: Iterable[ReadFilter]) -> list[Row]:
        group: list[Any] = self._groups.get(group_key, [])
        begin, end = 0, len(group)
        for f in ranges:
            place = _rank(f.data)
            if place is None:
                return []
            low, high = _bounds(place, f.filter_by)
            begin = max(begin, bisect_left(group, low))
            end = min(end, bisect_left(group, high))
        return [row for _, _, row in group[begin:end]]

    def _place(self, row: Row) -> tuple[int, Any] | None:
        """What sorts the row in its group; None if this index can never find it."""
        return (0, 0) if self._range_field is None else _rank(row.get(self._range_field))

    def _group(self, row: Row) -> tuple[Hashable, ...]:
        return tuple([_key(row.get(name)) for name in self._fields])


def _bounds(place: tuple[int, Any], filter_by: FilterType) -> tuple[Any, Any]:
    """The bounds of the entries of an index that pass a filter and are of the same kind."""
    kind = place[0]
    before, behind = (place,), (place, math.inf)
    if filter_by is FilterType.major:
        return behind, ((kind + 1,),)
    if filter_by is FilterType.majorOrEqual:
        return before, ((kind + 1,),)
    return ((kind,),), before if filter_by is FilterType.minor else behind


def _rank(value: object) -> tuple[int, Any] | None:
    """A sort key for comparable values: numbers before text. None for others."""
    if isinstance(value, (int, float)):
        return None if math.isnan(value) else (0, value)
    if isinstance(value, str):
        return (1, value)
    return None


def _key(value: object) -> Hashable:
    """A value as something hashable: lists and objects by their text."""
    if isinstance(value, str):
        return value
    if isinstance(value, (list, dict)):
        return ("json", json.dumps(value, sort_keys=True))
    return value if isinstance(value, Hashable) else repr(value)


def _passes(row: Row, f: ReadFilter) -> bool:
    value = row.get(f.field_name)
    if f.filter_by is FilterType.equal:
        return bool(value == f.data)
    a, b = _rank(value), _rank(f.data)
    return a is not None and b is not None and a[0] == b[0] and _COMPARE[f.filter_by](a[1], b[1])


_decode = json.JSONDecoder().decode


def _read_object(data_json: str) -> Row:
    try:
        row: Row = _decode(data_json)
    except (ValueError, RecursionError):
        raise InvalidDiffError(
            "json_data cannot be read: not JSON, or a number is too long or nested too deep"
        ) from None
    return row


def _copy_row(row: Row) -> Row:
    """A copy of a row that shares nothing with the stored one. All of it came from JSON.

    Not recursive: a row that could be read when it was written can be too deep at a later call.
    """
    copied = dict(row)
    unshared: list[Any] = [copied]
    while unshared:
        holder = unshared.pop()
        for place, inner in holder.items() if isinstance(holder, dict) else enumerate(holder):
            if isinstance(inner, (list, dict)):
                holder[place] = inner.copy()
                unshared.append(holder[place])
    return copied
