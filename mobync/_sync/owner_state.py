"""The stored state of an owner besides the log: how far the log is folded, and who may know it.

It is stored like the state of a device, under a name that no device can have.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .._core import Mobync

OWNER = ""  # the name

MOST_PREDECESSORS = 100  # owners whose devices may come although they are not known

_FRESH_PART = 10  # a part of the retention: how long the time of the last sync is not stored again


@dataclass
class OwnerState:
    """The stored state of an owner.

    Attributes:
        horizon: the clock below which the log is folded.
        folds: how many times it was folded.
        nameless_ms: when a device without a name last synced, in milliseconds since 1970; None if
            there never was one.
        nameless_from: the clock from which on a device without a name may ask; below it, its clock
            may be one of another owner's log (moving.py).
        moved: by how much clocks of a log that this owner got may be behind those of this one.
        predecessors: fingerprints of owners whose data became this owner's (marks.py).
    """

    horizon: int = 0
    folds: int = 0
    nameless_ms: int | None = None
    nameless_from: int = 0
    moved: int = 0
    predecessors: list[str] = field(default_factory=list)

    def to_text(self) -> str:
        """The text that a store keeps."""
        return json.dumps(vars(self))

    @classmethod
    def of_text(cls, text: str) -> OwnerState:
        """The state from a stored text."""
        return cls(**known_members(cls, text))

    def is_sound(self) -> bool:
        """Whether each member has a valid value; a text from elsewhere may contain anything."""
        known = 0 if self.nameless_ms is None else self.nameless_ms
        numbers = self.horizon, self.folds, known, self.nameless_from, self.moved
        names = self.predecessors
        return all(type(number) is int for number in numbers) and (
            isinstance(names, list) and all(type(name) is str for name in names)
        )

    def succeed(self, *fingerprints: str) -> None:
        """Store that data of other owners became this owner's."""
        known = dict.fromkeys([*self.predecessors, *fingerprints])
        self.predecessors = list(known)[-MOST_PREDECESSORS:]

    def refuses(self, clock: int, first_clock: int, folds: int) -> bool:
        """Whether a device without a name cannot get what it has not seen."""
        end = max(self.horizon, self.nameless_from)
        return 0 < clock < end or self._has_changed_behind(clock, first_clock, folds, end)

    def has_folded_behind(self, clock: int, first_clock: int, folds: int) -> bool:
        """Whether edits that a pull in pages has not brought yet may be in rows that it has
        brought.

        Args:
            clock: the clock with which the pull began.
            first_clock: the clock with which the requested page begins.
            folds: how many times the log had been folded when the pull began.
        """
        return self._has_changed_behind(clock, first_clock, folds, self.horizon)

    def _has_changed_behind(self, clock: int, first_clock: int, folds: int, end: int) -> bool:
        return clock < first_clock < end and folds != self.folds


def first_state(now_ms: int, *, log_is_empty: bool) -> OwnerState:
    """The first state of an owner: devices without a name may know a log that exists."""
    return OwnerState(nameless_ms=None if log_is_empty else now_ms)


def known_members(state: type, text: str) -> dict[str, Any]:
    """The members of a stored text that this version knows; a later one may have written more."""
    names = {each.name for each in fields(state)}
    return {name: value for name, value in json.loads(text).items() if name in names}


def ms(seconds: float) -> int:
    """Milliseconds."""
    return int(seconds * 1000)


def is_stale(server: Mobync, noted_ms: int, retention_ms: int) -> bool:
    """Whether the time at which a device was seen should be stored again."""
    return server._now_ms() - noted_ms > retention_ms // _FRESH_PART
