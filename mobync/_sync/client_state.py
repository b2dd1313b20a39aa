"""What is kept of a device of a client beside what is kept of any: mobync/clients/_devices.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .owner_state import OwnerState


@dataclass
class Pull:
    """What a device pulls of one collection, or of all.

    Attributes:
        hold: the clock from which on it needs the log.
        given: where pulls ended, as it was told: a mark, if its protocol has one, and a clock.
        is_whole: whether it has come to the end of the log, since it began.
        folds: how often the log had been folded when it began.
        seen_ms: when it was pulled last; that of a poll is not always noted.
    """

    hold: int = 0
    given: list[tuple[str | None, int]] = field(default_factory=list)
    is_whole: bool = False
    folds: int = 0
    seen_ms: int = 0

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> Pull:
        """What was kept as JSON."""
        pull = cls(**{name: kept[name] for name in cls.__dataclass_fields__ if name in kept})
        pull.given = [(mark, clock) for mark, clock in pull.given]
        return pull

    def is_sound(self) -> bool:
        """Whether each member is what a server keeps."""
        numbers = [self.hold, self.folds, self.seen_ms, *(clock for _, clock in self.given)]
        return (
            all(type(number) is int for number in numbers)
            and all(isinstance(mark, str | None) for mark, _ in self.given)
            and type(self.is_whole) is bool
        )

    def is_behind(self, clock: int, owner: OwnerState) -> bool:
        """Whether what comes after a clock was folded away, or into what the device has."""
        return clock < owner.horizon and (self.is_whole or self.folds != owner.folds)


def clock_of_client(kept: Mapping[str, Any]) -> int:
    """The clock up to which a device was given everything that it pulls; 0: nothing yet."""
    pulls = map(Pull.of, kept.get("pulls", {}).values())
    return min((pull.given[-1][1] if pull.given else 0 for pull in pulls), default=0)


def is_sound_client(kept: Mapping[str, Any]) -> bool:
    """Whether this is what a server keeps of a device's client; a text may say anything."""
    if not {"name", "pulls", "done"} <= kept.keys():
        return False
    pulls = kept["pulls"].values()
    return (
        isinstance(kept["name"], str)
        and isinstance(kept["done"], str)
        and all(Pull.of(pull).is_sound() for pull in pulls)
    )
