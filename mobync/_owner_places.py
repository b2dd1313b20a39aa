"""How many syncs one owner may have at the same time, so that some threads are left for the others.

Syncs of an owner wait for each other, each in a thread.  Without a limit those of one owner whose
lock is held would soon be in all of them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from .errors import BusyError

PATIENCE_S = 0.25  # devices that hear of a sync come all at once, and most are done sooner


class _Entry:
    __slots__ = ("free", "users")

    def __init__(self, places: int) -> None:
        self.free = threading.Semaphore(places)
        self.users = 0


class OwnerPlaces:
    """So many places for each owner.  An owner of whom nothing runs costs nothing.

    Args:
        each: places of one owner.
    """

    def __init__(self, each: int) -> None:
        self._each = each
        self._reset()
        # A place that a thread of the parent held would stay held in the child for ever.
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._guard = threading.Lock()
        self._entries: dict[Hashable, _Entry] = {}

    @contextmanager
    def hold(self, owner: Hashable) -> Iterator[None]:
        """Hold one of an owner's places.

        Raises:
            BusyError: none became free in ``PATIENCE_S`` seconds.
        """
        with self._guard:
            entry = self._entries.setdefault(owner, _Entry(self._each))
            entry.users += 1
        try:
            if not entry.free.acquire(timeout=PATIENCE_S):
                raise BusyError(f"{self._each} syncs of this owner are running or waiting already")
            try:
                yield
            finally:
                entry.free.release()
        finally:
            with self._guard:
                entry.users -= 1
                if entry.users == 0:
                    del self._entries[owner]
