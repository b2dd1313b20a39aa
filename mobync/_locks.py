"""Locks that exist only while someone holds or awaits them."""

from __future__ import annotations

import os
import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from .errors import BusyError


class _Entry:
    __slots__ = ("holder", "lock", "users")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.holder: int | None = None


class KeyedLocks:
    """A lock for each key.  Different keys never wait for each other; idle ones cost nothing."""

    def __init__(self) -> None:
        self._reset()
        # A lock that a thread of the parent held would stay held in the child for ever.
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._guard = threading.Lock()
        self._entries: dict[Hashable, _Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    @contextmanager
    def hold(self, key: Hashable, timeout_s: float) -> Iterator[None]:
        """Hold the lock of ``key``.

        Raises:
            BusyError: another thread held it for ``timeout_s`` seconds.
            RuntimeError: this thread holds it already.
        """
        me = threading.get_ident()
        with self._guard:
            entry = self._entries.setdefault(key, _Entry())
            if entry.holder == me:
                raise RuntimeError("a sync of this owner is running further up this call stack")
            entry.users += 1
        try:
            if not entry.lock.acquire(timeout=timeout_s):
                raise BusyError(f"another sync of this owner took longer than {timeout_s:g} s")
            try:
                entry.holder = me
                yield
            finally:
                entry.holder = None
                entry.lock.release()
        finally:
            with self._guard:
                entry.users -= 1
                if entry.users == 0:
                    del self._entries[key]
