"""What is kept of a request that comes in parts, beside the parts: docs/protocol.md.

It stands with the device, so who reads that knows which parts there are without reading them.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field

KEPT_MS = 24 * 60 * 60 * 1000  # parts of a request that is never finished

Size = tuple[int, int]  # the bytes of a part, and a number that tells it from another one


@dataclass
class Upload:
    """The parts of one request of a device.

    Attributes:
        name: that the device gave them; None: none.
        number, mark, clock: of the request.
        sizes: by its number, of each part that is kept.
        kept_ms: when the last of them came, in milliseconds since 1970.
    """

    name: str | None
    number: int
    mark: str | None
    clock: int
    sizes: dict[int, Size] = field(default_factory=dict)
    kept_ms: int = 0

    def to_text(self) -> str:
        """The text that is kept with the device."""
        sizes = [[part, *size] for part, size in self.sizes.items()]
        return json.dumps([self.name, self.number, self.mark, self.clock, sizes, self.kept_ms])

    @classmethod
    def of_text(cls, text: str) -> Upload:
        """What was kept as a text."""
        name, number, mark, clock, sizes, kept_ms = json.loads(text)
        by_part = {part: (size, check) for part, size, check in sizes}
        return cls(name, number, mark, clock, by_part, kept_ms)

    @property
    def bytes(self) -> int:
        """Of all parts."""
        return sum(size for size, _ in self.sizes.values())

    def is_of(self, other: Upload) -> bool:
        """Whether both are of the same request, cut in the same way."""
        mine, others = ((each.name, each.number, each.mark, each.clock) for each in (self, other))
        return mine == others

    def missing_before(self, last: int) -> list[int]:
        """The parts that have not come, of those before the last one."""
        return [part for part in range(1, last) if part not in self.sizes]

    def is_stale(self, now_ms: int) -> bool:
        """Whether nobody goes on with it any more."""
        return now_ms - self.kept_ms > KEPT_MS


def size_of(part: str) -> Size:
    """By what a part is known that comes again."""
    text = part.encode()
    return len(text), zlib.crc32(text)


def is_over(upload: str, done: int, now_ms: int) -> bool:
    """Whether what is kept of parts is needed no more.

    Args:
        upload: the text; empty: nothing is kept.
        done: the number of the device's last request with diffs.  Parts of that one stay, for a
            retry of it.
        now_ms: the time.
    """
    if not upload:
        return False
    kept = Upload.of_text(upload)
    return kept.number < done or kept.is_stale(now_ms)
