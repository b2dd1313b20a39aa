"""The state of a request in parts, besides the parts: docs/protocol.md.

It is stored with the device. So whoever reads the device knows which parts there are.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field

KEPT_MS = 24 * 60 * 60 * 1000  # how long the parts of an unfinished request are stored

Size = tuple[int, int]  # the bytes of a part, and a checksum


@dataclass
class Upload:
    """The parts of one request of a device.

    Attributes:
        name: the device's name for them (``upload``); None: it gave none.
        number, mark, clock: those of the request.
        sizes: the size of each stored part, by its number.
        kept_ms: when the last of them arrived, in milliseconds since 1970.
    """

    name: str | None
    number: int
    mark: str | None
    clock: int
    sizes: dict[int, Size] = field(default_factory=dict)
    kept_ms: int = 0

    def to_text(self) -> str:
        """The text that is stored with the device."""
        sizes = [[part, *size] for part, size in self.sizes.items()]
        return json.dumps([self.name, self.number, self.mark, self.clock, sizes, self.kept_ms])

    @classmethod
    def of_text(cls, text: str) -> Upload:
        """The state from a stored text."""
        name, number, mark, clock, sizes, kept_ms = json.loads(text)
        by_part = {part: (size, check) for part, size, check in sizes}
        return cls(name, number, mark, clock, by_part, kept_ms)

    @property
    def bytes(self) -> int:
        """The bytes of all parts."""
        return sum(size for size, _ in self.sizes.values())

    def is_of(self, other: Upload) -> bool:
        """Whether both belong to the same request, cut in the same way."""
        mine, others = ((each.name, each.number, each.mark, each.clock) for each in (self, other))
        return mine == others

    def missing_before(self, last: int) -> list[int]:
        """The missing parts before the last one."""
        return [part for part in range(1, last) if part not in self.sizes]

    def is_stale(self, now_ms: int) -> bool:
        """Whether the device has given up this request."""
        return now_ms - self.kept_ms > KEPT_MS


def size_of(part: str) -> Size:
    """What recognizes a part that arrives again."""
    text = part.encode()
    return len(text), zlib.crc32(text)


def is_over(upload: str, done: int, now_ms: int) -> bool:
    """Whether the stored parts are no longer needed.

    Args:
        upload: the text; empty: there are no parts.
        done: the number of the device's last request with diffs. Its parts stay, for a retry.
        now_ms: the time.
    """
    if not upload:
        return False
    kept = Upload.of_text(upload)
    return kept.number < done or kept.is_stale(now_ms)
