"""So many holds of a key at a time; a lock is the case of one.

Whoever holds or waits stands in a line as a ticket, and the first tickets of a key in the line
hold it.  A ticket leaves by dying:

    line   [ticket of thread 1] [ticket of thread 2] [ticket of thread 3]
            holds                waits for 1 death    waits for 2 deaths

So there is nothing to give back.  A signal handler may raise between any two steps, also between
the end of a ``with`` and its ``__exit__``: the ticket dies with the last frame that knows it.  What
happens at its death is done in C, where no handler comes between.
"""

from __future__ import annotations

import os
import queue
import time
import weakref
from collections.abc import Hashable
from functools import partial
from itertools import count
from types import TracebackType
from typing import NamedTuple

from .._waiting import IN_A_THREAD, Waiting
from ..errors import BusyError


class _Ticket:
    __slots__ = ("__weakref__",)


class _Owner(NamedTuple):
    """Whose a ticket is; the number tells tickets apart, it says nothing of their order."""

    key: Hashable
    caller: Hashable
    number: int


class OwnerLocks:
    """So many places for each key.

    Different keys never wait for each other, and a key that nobody holds costs nothing.  A forked
    child begins with all places free: the threads that held them are its parent's.

    Args:
        places: how many may hold a key at a time.
    """

    def __init__(self, places: int = 1) -> None:
        self._places = places
        self._numbers = count()
        self._line: dict[_Owner, weakref.ref[_Ticket]] = {}
        _all.add(self)

    def __len__(self) -> int:
        """How many hold or wait, whatever the key."""
        return len(self._line)

    def hold(self, key: Hashable, timeout_s: float, waiting: Waiting = IN_A_THREAD) -> Hold:
        """Hold a place of ``key`` for the time of a ``with``.  Who came first is first.

        Args:
            key: what to hold.
            timeout_s: seconds to wait.
            waiting: how.

        Raises:
            BusyError: none became free in this time.
            RuntimeError: the only place is this caller's already.
        """
        return Hold(self, key, timeout_s, waiting)

    def _line_up(self, hold: Hold, key: Hashable) -> list[tuple[_Owner, weakref.ref[_Ticket]]]:
        """Give a hold a ticket at the end of the line; return those of its key before it.

        No variable here knows the ticket: a traceback that somebody keeps would hold the place.
        """
        me = _Owner(key, hold._waiting.caller(), next(self._numbers))
        hold._ticket = _Ticket()
        self._line[me] = weakref.ref(hold._ticket, partial(self._line.pop, me))
        ahead = []
        for owner, ref in list(self._line.items()):
            if owner == me:
                break
            if owner.key == key:
                ahead.append((owner, ref))
        if self._places == 1 and any(owner.caller == me.caller for owner, _ in ahead):
            raise RuntimeError("a sync of this owner is running further up this call stack")
        return ahead

    def _too_long(self, timeout_s: float) -> BusyError:
        if self._places == 1:
            return BusyError(f"another sync of this owner took longer than {timeout_s:g} s")
        return BusyError(f"{self._places} syncs of this owner are running or waiting already")

    def _forked(self) -> None:
        self._line = {}

    def __reduce__(self) -> tuple[type[OwnerLocks], tuple[int]]:
        """A copy is of another owner's: nobody holds any of it."""
        return OwnerLocks, (self._places,)


def locks_of(synchronizer: object) -> OwnerLocks:
    """The locks of the owners whose data a Synchronizer has.

    They hang on it, so that every Mobync of it has the same.
    """
    locks = getattr(synchronizer, _ATTRIBUTE, None)
    if locks is None:
        locks = OwnerLocks()
        if hasattr(synchronizer, "__dict__"):  # else the locks are the Mobync's alone
            locks = vars(synchronizer).setdefault(_ATTRIBUTE, locks)
    return locks


_ATTRIBUTE = "_mobync_owner_locks"


class Hold:
    """One hold, by a ``with`` of it."""

    __slots__ = ("_key", "_locks", "_ticket", "_timeout_s", "_waiting")

    def __init__(
        self, locks: OwnerLocks, key: Hashable, timeout_s: float, waiting: Waiting
    ) -> None:
        self._locks = locks
        self._key = key
        self._timeout_s = timeout_s
        self._waiting = waiting
        self._ticket: _Ticket | None = None  # the only one who knows it

    def __enter__(self) -> None:
        try:
            self._wait(self._locks._line_up(self, self._key))
        except BaseException:
            self._ticket = None
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ticket = None

    def _wait(self, ahead: list[tuple[_Owner, weakref.ref[_Ticket]]]) -> None:
        """Wait until so few of those ahead are left that this one holds a place."""
        if not ahead:
            return
        died = self._waiting.queue()
        watched = []
        for _, ref in ahead:
            try:
                # In one expression: a variable that knew the ticket would keep it alive.
                watched.append(weakref.ref(ref(), died.put))
            except TypeError:  # it is dead already
                continue
        deadline = time.monotonic() + self._timeout_s
        for _ in range(len(watched) - self._locks._places + 1):
            try:
                died.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise self._locks._too_long(self._timeout_s) from None


_all: weakref.WeakSet[OwnerLocks] = weakref.WeakSet()


def _tell_of_fork() -> None:
    for locks in _all:
        locks._forked()


os.register_at_fork(after_in_child=_tell_of_fork)
