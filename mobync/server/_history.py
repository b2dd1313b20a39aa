"""Who won which field of an object, and what the log can say about why.

The log holds the edits that were accepted, in the order in which they were.  It does not hold what
lost, which device made an edit, or what that device had seen.  So of two edits of one field it is
mostly unknown whether the later was made apart from the earlier or after seeing it; it stands
either way.  One thing does follow.  Between edits made apart the later time wins (docs/protocol.md,
"The merge"), and the log keeps the times that were compared.  An edit that stands although its time
is *earlier* than that of one below it in the log was therefore made by a device whose logical clock
was past that one, and so past everything below it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ._log_pages import Entry

CREATED = "created"  # by the create that began this life of the object
FIRST = "first"  # nothing had written the field before in this life
SAME = "same"  # it wrote what was there
SEEN = "seen"  # its device had synced past what it replaced
LATER = "later"  # its time is later: it stands whether it was made apart or not
TIE = "tie"  # made in the same millisecond, and synced last
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
        fields: by name, the writes in the order of the log; of a live object the last one holds.
    """

    created: int | None = None
    deleted: int | None = None
    fields: dict[str, list[Write]] = field(default_factory=dict)


def lives_of(entries: Iterable[Entry]) -> list[Life]:
    """Follow one object through its entries.

    Args:
        entries: of one object, the oldest first.  Where the first of them are missing, what they
            wrote counts as never written.

    Returns:
        The object's lives, the oldest first; the last one goes on unless it has a delete.
    """
    lives: list[Life] = []
    times: dict[int, int] = {}
    below = _Below(times)
    for entry in entries:
        times[entry.logical_clock] = entry.utc_timestamp
        creates = entry.kind == "create"
        if not lives or (creates and lives[-1].deleted is not None):
            lives.append(Life(created=entry.logical_clock if creates else None))
        life = lives[-1]
        if entry.kind == "delete":
            if life.deleted is None:
                life.deleted = entry.logical_clock
        elif life.deleted is not None:
            for name, text in entry.members:
                write = Write(entry.logical_clock, text, NO_ROW)
                life.fields.setdefault(name, []).append(write)
        else:
            seen = below.seen_by(entry)
            for name, text in entry.members:
                writes = life.fields.setdefault(name, [])
                writes.append(_write(entry, text, writes, seen, life, times))
    return lives


class _Below:
    """The edits that stand below the next one, per field.

    Of each field only those are kept, of which no later one has as late a time.
    """

    def __init__(self, times: dict[int, int]) -> None:
        self._times = times
        self._clocks: dict[str, list[int]] = {}

    def seen_by(self, entry: Entry) -> int:
        """The highest clock that the device of the next edit had synced past, for all we know."""
        seen = -1
        for name, _ in entry.members:
            clocks = self._clocks.setdefault(name, [])
            while clocks and self._times[clocks[-1]] <= entry.utc_timestamp:
                clocks.pop()
            if clocks:
                seen = max(seen, clocks[-1])
            clocks.append(entry.logical_clock)
        return seen


def _write(
    entry: Entry, text: str, writes: list[Write], seen: int, life: Life, times: dict[int, int]
) -> Write:
    if not writes:
        why = CREATED if life.created == entry.logical_clock else FIRST
        return Write(entry.logical_clock, text, why)
    replaced = writes[-1]
    later_ms = entry.utc_timestamp - times[replaced.logical_clock]
    if text == replaced.text:
        why = SAME
    elif replaced.logical_clock <= seen:
        why = SEEN
    else:
        why = LATER if later_ms > 0 else TIE
    return Write(entry.logical_clock, text, why, replaced.logical_clock, later_ms)
