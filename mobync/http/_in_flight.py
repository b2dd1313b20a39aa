"""How many bytes of bodies this process holds at once, and for whom.

Each endpoint says how many there may be when it asks for more; what is counted is of all endpoints.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Hashable


class BytesInFlight:
    """Counts bytes that were taken in and not given back."""

    def __init__(self) -> None:
        self._reset()
        # What a thread of the parent held would stay held in the child for ever.
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._guard = threading.Lock()
        self._all = 0
        self._of: Counter[Hashable] = Counter()

    def __len__(self) -> int:
        return self._all

    def take(self, holder: Hashable, size: int, *, most: int, most_of_holder: int) -> bool:
        """Take so many bytes, unless there would then be too many; say whether they were taken.

        Args:
            holder: who sends them.
            size: how many more.
            most: bytes of all holders.
            most_of_holder: bytes of this one.
        """
        with self._guard:
            if self._all + size > most or self._of[holder] + size > most_of_holder:
                return False
            self._all += size
            self._of[holder] += size
            return True

    def give_back(self, holder: Hashable, size: int) -> None:
        """Give back bytes that were taken."""
        with self._guard:
            self._all -= size
            self._of[holder] -= size
            if not self._of[holder]:
                del self._of[holder]
