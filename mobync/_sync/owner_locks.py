"""Lets a limited number of threads hold a key at the same time. With a limit of one, it is a lock.

Each thread that holds or waits has a ticket in a line, and the first tickets of a key in the line
hold it. A ticket leaves the line when the object dies:

    line   [ticket of thread 1] [ticket of thread 2] [ticket of thread 3]
            holds                waits for 1 death    waits for 2 deaths

So nothing has to be released. A signal handler may raise between any two steps, even between the
end of a ``with`` and its ``__exit__``: the ticket dies with the last frame that refers to it. The
code that runs at its death is C, which no handler interrupts.
"""

from __future__ import annotations

import os
import queue
import sys
import time
import weakref
from collections.abc import Callable, Hashable
from contextlib import ExitStack
from functools import partial
from itertools import count
from types import TracebackType
from typing import NamedTuple

from .._waiting import IN_A_THREAD, Waiting
from ..errors import BusyError


class _Ticket:
    __slots__ = ("__weakref__",)


class _Owner(NamedTuple):
    """The thread of a ticket. The number only tells tickets apart, and says nothing about their
    order.
    """

    key: Hashable
    caller: Hashable
    number: int


class OwnerLocks:
    """A limited number of places for each key.

    Different keys never wait for each other, and a key that nobody holds costs nothing. After a
    fork, all places are free in the child, because the threads that held them are in the parent.

    Args:
        places: how many may hold a key at the same time.
    """

    def __init__(self, places: int = 1) -> None:
        self._places = places
        self._numbers = count()
        self._line: dict[_Owner, weakref.ref[_Ticket]] = {}
        self._late: dict[Hashable, list[Callable[[], object]]] = {}  # by caller
        _all.add(self)

    def __len__(self) -> int:
        """How many hold or wait, for all keys together."""
        return len(self._line)

    def hold(self, key: Hashable, timeout_s: float, waiting: Waiting = IN_A_THREAD) -> Hold:
        """Hold a place of ``key`` during a ``with``. The first to come gets the first place.

        Args:
            key: what to hold.
            timeout_s: seconds to wait.
            waiting: how to wait.

        Raises:
            BusyError: no place became free in this time.
            RuntimeError: this caller already holds the only place.
        """
        return Hold(self, key, timeout_s, waiting)

    def when_free(self, work: Callable[[], object], waiting: Waiting = IN_A_THREAD) -> None:
        """Do some work as soon as the caller holds nothing: now, or behind the last ``with``.

        Args:
            work: what to do; it may hold any key.
            waiting: of the caller.
        """
        if self._line and self._is_in_line(caller := waiting.holder()):
            self._late.setdefault(caller, []).append(work)
        else:
            work()

    def _is_in_line(self, caller: Hashable) -> bool:
        return any(owner.caller == caller for owner in list(self._line))

    def _do_late(self, caller: Hashable, waiting: Waiting) -> None:
        """Do the work that waits for a caller whose place was just given back.

        All of it is done in its order, even if some is interrupted. Another thread may have given
        back the place, by closing a generator; the work waits until that thread is free, too.
        """
        if not self._is_in_line(caller):
            with ExitStack() as works:
                for work in reversed(self._late.pop(caller, ())):
                    works.callback(self.when_free, work, waiting)

    def _line_up(self, hold: Hold, key: Hashable) -> list[tuple[_Owner, weakref.ref[_Ticket]]]:
        """Give a hold a ticket at the end of the line; return the tickets of its key before it.

        No variable here refers to the ticket, because a stored traceback would then hold the place.
        """
        me = _Owner(key, hold._waiting.caller(), next(self._numbers))
        hold._caller = me.caller
        hold._ticket = _Ticket()
        self._line[me] = weakref.ref(hold._ticket, partial(self._line.pop, me))
        ahead: list[tuple[_Owner, weakref.ref[_Ticket]]] = []
        if len(self._line) == 1:
            return ahead
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
        self._line, self._late = {}, {}

    def __reduce__(self) -> tuple[type[OwnerLocks], tuple[int]]:
        """A copy is a new object, and nobody holds a place in it."""
        return OwnerLocks, (self._places,)


def locks_of(synchronizer: object) -> OwnerLocks:
    """The locks of a Synchronizer's owners.

    They are an attribute of the Synchronizer, so all its Mobyncs share them.
    """
    locks = getattr(synchronizer, _ATTRIBUTE, None)
    if locks is None:
        locks = OwnerLocks()
        if hasattr(synchronizer, "__dict__"):  # else each Mobync has its own locks
            locks = vars(synchronizer).setdefault(_ATTRIBUTE, locks)
    return locks


_ATTRIBUTE = "_mobync_owner_locks"


class Hold:
    """One hold of a place, for a ``with``."""

    __slots__ = ("_caller", "_key", "_locks", "_ticket", "_timeout_s", "_waiting")

    def __init__(
        self, locks: OwnerLocks, key: Hashable, timeout_s: float, waiting: Waiting
    ) -> None:
        self._locks = locks
        self._key = key
        self._timeout_s = timeout_s
        self._waiting = waiting
        self._ticket: _Ticket | None = None  # the only reference to it
        self._caller: Hashable = None

    def __enter__(self) -> None:
        try:
            ahead = self._locks._line_up(self, self._key)
            if ahead:
                self._wait(ahead)
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
        if self._locks._late:
            self._locks._do_late(self._caller, self._waiting)

    def _wait(self, ahead: list[tuple[_Owner, weakref.ref[_Ticket]]]) -> None:
        """Wait until so few tickets are ahead that this one holds a place."""
        died = self._waiting.queue()
        watched = []
        for _, ref in ahead:
            try:
                # In one expression, because a variable would keep the ticket alive.
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


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_tell_of_fork)
