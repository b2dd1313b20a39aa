"""Who won which field of an object, and what the log can say about why.

The log holds the edits that were accepted, in the order in which they were.  It does not hold what
lost, which device made an edit, or what that device had seen.  So of two edits of one field it is
mostly unknown whether the later was made apart from the earlier or after seeing it; it stands
either way.  One thing does follow.  Between edits made apart the later time wins (docs/protocol.md,
"The merge"), and the log keeps the times that were compared.  An edit that stands although its time
is *earlier* than that of one below it in the log was therefore made by a device whose logical clock
was past that one, and so past everything below it.

Of a device that names itself, `mobync serve` notes what it had seen when it pushed (pushes.py).
Where that is known, nothing has to be guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ._log_pages import Entry
from .pushes import Push

CREATED = "created"  # by the create that began this life of the object
FIRST = "first"  # nothing had written the field before in this life
SAME = "same"  # it wrote what was there
SEEN = "seen"  # its device had synced past what it replaced
LATER = "later"  # its time is later: it stands whether it was made apart or not
TIE = "tie"  # made in the same millisecond, and synced last
OWN = "own"  # the same device had written what it replaced
APART = "apart"  # its device had not seen what it replaced, and its time is later
APART_TIE = "apart tie"  # nor had it; made in the same millisecond, and synced last
NO_ROW = "no row"  # the object was deleted; the write counts for nothing


@dataclass(frozen=True)
class Write:
    """One edit's value of one field.

    Attributes:
        logical_clock: of the edit in the log.
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
        created, deleted: the clocks of its create and its delete; None where the entries have none.
        edits: what wrote to it, in the order of the log; and of each the highest clock that its
            device had synced past, for all we know.
        names: of the fields that were written, in the order in which they first were.
        pushes: by clock what an edit came with, where that is known.
    """

    created: int | None = None
    deleted: int | None = None
    edits: list[tuple[Entry, int]] = field(default_factory=list)
    names: dict[str, None] = field(default_factory=dict)
    pushes: Mapping[int, Push] = field(default_factory=dict)

    def writes(self, name: str) -> list[Write]:
        """The writes of a field in the order of the log; of a live object the last one holds."""
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
        entries: of one object, the oldest first.  Where the first of them are missing, what they
            wrote counts as never written.
        pushes: by clock what an entry came with, where that is known.

    Returns:
        The object's lives, the oldest first; the last one goes on unless it has a delete.
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
    """The edits that stand below the next one, per field.

    Of each field only those are kept that no later one has as late a time as.
    """

    def __init__(self) -> None:
        self._times: dict[int, int] = {}
        self._clocks: dict[str, tuple[int, ...]] = {}

    def seen_by(self, entry: Entry) -> int:
        """The highest clock that the device of the next edit had synced past, for all we know."""
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
