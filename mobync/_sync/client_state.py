"""The additional state of a device of RxDB or WatermelonDB; mobync/clients/_devices.py uses it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .owner_state import OwnerState


@dataclass
class Pull:
    """How far a device has pulled one collection, or all of them.

    Attributes:
        hold: the clock from which on the device needs the log.
            given: where its pulls ended: a mark, if its protocol has marks, and a clock.
            is_whole: whether it has reached the end of the log since it began.
            folds: how many times the log had been folded when it began.
            seen_ms: when it last pulled; for polls this is not always stored.
    """

    hold: int = 0
    given: list[tuple[str | None, int]] = field(default_factory=list)
    is_whole: bool = False
    folds: int = 0
    seen_ms: int = 0

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> Pull:
        """The state from its JSON."""
        pull = cls(**{name: kept[name] for name in cls.__dataclass_fields__ if name in kept})
        pull.given = [(mark, clock) for mark, clock in pull.given]
        return pull

    def is_sound(self) -> bool:
        """Whether each member has a valid value."""
        numbers = [self.hold, self.folds, self.seen_ms, *(clock for _, clock in self.given)]
        return (
            all(type(number) is int for number in numbers)
            and all(isinstance(mark, str | None) for mark, _ in self.given)
            and type(self.is_whole) is bool
        )

    def is_behind(self, clock: int, owner: OwnerState) -> bool:
        """Whether the log after a clock was folded: dropped, or joined with rows that the device
        has.
        """
        return clock < owner.horizon and (self.is_whole or self.folds != owner.folds)


def clock_of_client(kept: Mapping[str, Any]) -> int:
    """The clock up to which a device has everything that it pulls; 0: nothing yet."""
    pulls = map(Pull.of, kept.get("pulls", {}).values())
    return min((pull.given[-1][1] if pull.given else 0 for pull in pulls), default=0)


def is_sound_client(kept: Mapping[str, Any]) -> bool:
    """Whether this is a valid state; a stored text may contain anything."""
    if not {"name", "pulls", "done"} <= kept.keys():
        return False
    pulls = kept["pulls"].values()
    return (
        isinstance(kept["name"], str)
        and isinstance(kept["done"], str)
        and all(Pull.of(pull).is_sound() for pull in pulls)
    )
