"""Counts the bytes of bodies that this process holds, for each sender.

An endpoint passes its limits when it asks for more. The count includes all endpoints of the
process.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from collections.abc import Hashable


class BytesInFlight:
    """Counts bytes that were taken and not given back."""

    def __init__(self) -> None:
        self._reset()
        # Bytes that a thread of the parent holds would never be given back in the child.
        if sys.platform != "win32":
            os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._guard = threading.Lock()
        self._all = 0
        self._of: Counter[Hashable] = Counter()

    def __len__(self) -> int:
        return self._all

    def take(self, holder: Hashable, size: int, *, most: int, most_of_holder: int) -> bool:
        """Take bytes, unless there would be too many; return whether they were taken.

        Args:
            holder: the sender of the bytes.
            size: how many bytes.
            most: how many bytes all holders may have.
            most_of_holder: how many bytes this holder may have.
        """
        with self._guard:
            if self._all + size > most or self._of[holder] + size > most_of_holder:
                return False
            if size:  # a holder of nothing is not counted, because nobody gives nothing back
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
