"""Which edit won which field of an object, and what the log can say about why.

The log has the accepted edits, in the order of their acceptance. It does not have edits that lost,
and does not say which device made an edit, or what that device had seen. So for two edits of one
field it is mostly unknown whether the second was made apart from the first or after seeing it. It
stands in both cases. In one case the log does show it. Between edits made apart, the later time
wins (docs/protocol.md, "The merge"), and the log has the times that were compared. If an edit won
although its time is *earlier* than that of an edit below it in the log, its device had seen that
edit, and everything below it.

For a named device, `mobync serve` stores what it had seen when it pushed (pushes.py). Then nothing
has to be guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ._log_pages import Entry
from .pushes import Push

CREATED = "created"  # by the create that began this life of the object
FIRST = "first"  # the first write of the field in this life
SAME = "same"  # it wrote the value that was already there
SEEN = "seen"  # its device had synced past what it replaced
LATER = "later"  # its time is later: it wins whether it was made apart or not
TIE = "tie"  # made in the same millisecond, and synced last
OWN = "own"  # the same device had written what it replaced
APART = "apart"  # its device had not seen what it replaced, and its time is later
APART_TIE = "apart tie"  # its device had not seen it either; same millisecond, synced last
NO_ROW = "no row"  # the object was deleted; the write counts for nothing


@dataclass(frozen=True)
class Write:
    """One edit's value of one field.

    Attributes:
        logical_clock: the clock of the edit.
        text: the value's JSON text.
        why: one of the words above.
        replaced: the clock of the edit whose value it replaced; None if there was none.
        later_ms: how much later its time is than that one's; negative if it is earlier.
    """

    logical_clock: int
    text: str
    why: str
    replaced: int | None = None
    later_ms: int | None = None


@dataclass
class Life:
    """One life of an object.

    Attributes:
        created, deleted: the clocks of its create and its delete; None if the entries have none.
        edits: its edits in the order of the log, each with the highest clock that its device is
            known to have synced past.
        names: the names of the written fields, in the order of their first writes.
        pushes: the push of each edit, by its clock, if it is known.
    """

    created: int | None = None
    deleted: int | None = None
    edits: list[tuple[Entry, int]] = field(default_factory=list)
    names: dict[str, None] = field(default_factory=dict)
    pushes: Mapping[int, Push] = field(default_factory=dict)

    def writes(self, name: str) -> list[Write]:
        """The writes of a field in the order of the log. The last one is the value of a live
        object.
        """
        found: list[Write] = []
        replaced: Entry | None = None
        for entry, seen in self.edits:
            if name in entry.members:
                found.append(self._write(entry, name, replaced, seen))
                replaced = entry if found[-1].why != NO_ROW else replaced
        return found

    def _write(self, entry: Entry, name: str, replaced: Entry | None, seen: int) -> Write:
        clock, text = entry.logical_clock, entry.members[name]
        if self.deleted is not None and clock > self.deleted:
            return Write(clock, text, NO_ROW)
        if replaced is None:
            return Write(clock, text, CREATED if self.created == clock else FIRST)
        later_ms = entry.utc_timestamp - replaced.utc_timestamp
        push, before = self.pushes.get(clock), self.pushes.get(replaced.logical_clock)
        if text == replaced.members[name]:
            why = SAME
        elif push is not None and before is not None and push.device == before.device:
            why = OWN
        elif replaced.logical_clock <= seen:
            why = SEEN
        elif push is not None:
            why = APART if later_ms > 0 else APART_TIE
        else:
            why = LATER if later_ms > 0 else TIE
        return Write(clock, text, why, replaced.logical_clock, later_ms)


def lives_of(entries: Iterable[Entry], pushes: Mapping[int, Push] | None = None) -> list[Life]:
    """Follow one object through its entries.

    Args:
        entries: the entries of one object, the oldest first. If the first ones are missing, their
            values count as never written.
        pushes: the push of each entry, by its clock, if it is known.

    Returns:
        The object's lives, the oldest first. The last one is alive unless it has a delete.
    """
    lives: list[Life] = []
    below = _Below()
    known = {} if pushes is None else pushes
    for entry in entries:
        creates = entry.kind == "create"
        if not lives or (creates and lives[-1].deleted is not None):
            lives.append(Life(entry.logical_clock if creates else None, pushes=known))
        life = lives[-1]
        if entry.kind == "delete":
            if life.deleted is None:
                life.deleted = entry.logical_clock
            continue
        seen = -1 if life.deleted is not None else below.seen_by(entry)
        push = known.get(entry.logical_clock)
        if push is not None and life.deleted is None:
            seen = max(seen, push.seen_clock - 1)
        life.edits.append((entry, seen))
        life.names.update(dict.fromkeys(entry.members))
    return lives


class _Below:
    """The edits below the next one, for each field.

    For each field, this keeps only edits whose time is later than that of all edits after them.
    """

    def __init__(self) -> None:
        self._times: dict[int, int] = {}
        self._clocks: dict[str, tuple[int, ...]] = {}

    def seen_by(self, entry: Entry) -> int:
        """The highest clock that the device of the next edit is known to have synced past."""
        self._times[entry.logical_clock] = entry.utc_timestamp
        seen = -1
        alone = (entry.logical_clock,)  # one for all fields: there may be a million
        for name in entry.members:
            clocks = self._clocks.get(name, ())
            while clocks and self._times[clocks[-1]] <= entry.utc_timestamp:
                clocks = clocks[:-1]
            if clocks:
                seen = max(seen, clocks[-1])
            self._clocks[name] = clocks + alone if clocks else alone
        return seen
