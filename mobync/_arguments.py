"""Checks of what callers and devices pass beside the diffs."""

from __future__ import annotations

from .errors import LogicalClockError, shown
from .types import MAX_LOGICAL_CLOCK


def check_text(name: str, text: object) -> None:
    """Check that an argument is text that a database can hold.

    Raises:
        TypeError: it is no str.
        ValueError: it is empty, or has U+0000 or a surrogate.
    """
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a str, not {type(text).__name__}")
    if not text or "\0" in text:
        raise ValueError(f"{name} must be text that is not empty and has no U+0000")
    text.encode()


def check_count(name: str, count: object, most: int) -> None:
    """Check that an argument is an int of 0 to ``most``.

    Raises:
        TypeError: it is no int.
        ValueError: it is out of range.
    """
    if not isinstance(count, int) or isinstance(count, bool):
        raise TypeError(f"{name} must be an int, not {type(count).__name__}")
    if not 0 <= count <= most:
        raise ValueError(f"{name} must be of 0 to {most}")


def read_clock(logical_clock: int | str | None) -> int:
    """Read the logical clock of a request, which may have come as text.

    Raises:
        LogicalClockError: it is no int of 0 or more that every JSON client can hold exactly.
    """
    clock: object = logical_clock
    if isinstance(clock, str):
        digits = clock.removeprefix("-")
        if digits.isascii() and digits.isdigit():
            clock = int(clock) if len(digits) < 20 else -1  # out of range, whatever it is
    if not isinstance(clock, int) or isinstance(clock, bool):
        raise LogicalClockError(f"logical_clock must be an int, not {shown(logical_clock)}")
    if not 0 <= clock <= MAX_LOGICAL_CLOCK:
        raise LogicalClockError("logical_clock must be of 0 to 2**53 - 1")
    return clock
