"""The shared part of the three kinds of live updates, and the kind that needs no broker."""

from __future__ import annotations

import abc
import asyncio
import hashlib
import math
import os
import sys
import weakref
from collections.abc import AsyncGenerator, Callable, Generator
from typing import TYPE_CHECKING

from .._plain import check_plain, refuse_awaitable
from ..errors import shown
from ._events import Course, Run, async_events, blocking_events
from ._hub import Hub, Place

if TYPE_CHECKING:
    from ..types import SyncReport

HEARTBEAT_S = 15.0
RECHECK_S = 60.0
MAX_LISTENERS_PER_OWNER = 100


class Live(abc.ABC):
    """Tells listening devices when the log of their owner has grown.

    One object serves any number of threads and event loops of a process. You can make it before the
    process forks.

    Args:
        heartbeat_s: seconds of silence after which a device gets a comment.
        recheck_s: seconds after which a device's clock is read again. This finds syncs that were
            not announced, because the process was killed or has no Live. After a failed read,
            the next one comes after ``heartbeat_s`` at the latest.
        max_listeners: how many devices may listen to this process; None for half the number of
            files that it may have open. On WSGI, set it below the number of threads.
        max_listeners_per_owner: how many of them may belong to one owner.

    Raises:
        TypeError: a number of listeners is not an int.
        ValueError: a number is not positive.
    """

    def __init__(
        self,
        *,
        heartbeat_s: float = HEARTBEAT_S,
        recheck_s: float = RECHECK_S,
        max_listeners: int | None = None,
        max_listeners_per_owner: int = MAX_LISTENERS_PER_OWNER,
    ) -> None:
        for name, seconds in (("heartbeat_s", heartbeat_s), ("recheck_s", recheck_s)):
            if not (math.isfinite(seconds) and seconds > 0):
                raise ValueError(f"{name} must be a positive number of seconds, not {seconds!r}")
        if max_listeners is not None:
            _check_number("max_listeners", max_listeners)
        _check_number("max_listeners_per_owner", max_listeners_per_owner)
        self._heartbeat_s = float(heartbeat_s)
        self._course = Course(self._heartbeat_s, float(recheck_s))
        self._max_listeners = max_listeners
        self._max_listeners_per_owner = max_listeners_per_owner
        self._hub = Hub()
        self._hung_up = False
        _all.add(self)

    @property
    def listeners(self) -> int:
        """How many devices listen to this process."""
        return len(self._hub)

    def announce(self, report: SyncReport) -> None:
        """Tell an owner's devices about a sync; for :meth:`mobync.Mobync.listen`.

        This never waits for a device or a broker. It ignores a sync that did not change the log. It
        ends the streams of revoked devices.

        Args:
            report: the report of the committed sync.
        """
        for device in report.revoked:
            topic = _topic(report.owner_id, device)
            self._hub.doubt_device(topic)
            self._spread(topic, report.logical_clock)
        if report.accepted > 0:
            topic = _topic(report.owner_id)
            self._hub.tell(topic, report.logical_clock)
            self._spread(topic, report.logical_clock)

    def events(
        self,
        owner_id: str,
        clock_now: Callable[[], int],
        last_event_id: str | None = None,
        *,
        read_first: bool = False,
        run: Run = asyncio.to_thread,
        device: str | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """The body of the response to a listening device, for asyncio.

        A device that is not at the owner's clock gets the clock at once, and then each time it has
        changed. A slow device gets only the last clock. End the stream with ``aclose``, or by
        cancelling the task that reads it.

        Args:
            owner_id: the authenticated owner.
            clock_now: returns the owner's logical clock, as in the reply of a sync. ``run`` calls
                it after the subscription, so that nothing is missed in between.
            last_event_id: the request's header ``Last-Event-ID``; None if it has none.
            read_first: read the clock before this returns, and so before the response begins.
                This waits for the database, so an event loop makes the call in a thread.
            run: awaited for each later call of ``clock_now``; by default it uses a worker thread.
            device: the name of the device. When it is revoked, ``clock_now`` is called at once,
                and ends the stream by raising DeviceRevokedError.

        Returns:
            An iterator of Server-Sent Events in bytes: ``event: clock`` with the logical clock as
            ``id`` and ``data``, and comments as heartbeats. It raises what the first call of
            ``clock_now`` raises. An exception of a later call is logged, and the clock is read
            again.

        Raises:
            BusyError: ``max_listeners`` are listening.
            TooManyListenersError: ``max_listeners_per_owner`` of this owner are.
            TypeError: ``clock_now`` cannot be called, is an ``async def``, or did not return a
                clock.
            Exception: with ``read_first``, what ``clock_now`` raises.
        """
        clock_now = _checked(clock_now)
        place = self._join(owner_id, clock_now, read_first, device)
        return async_events(place, clock_now, last_event_id, self._course, run)

    def blocking_events(
        self,
        owner_id: str,
        clock_now: Callable[[], int],
        last_event_id: str | None = None,
        *,
        read_first: bool = False,
        device: str | None = None,
    ) -> Generator[bytes, None, None]:
        """The same as :meth:`events`, for WSGI: it waits in the thread that iterates.

        End it with ``close``, as WSGI servers do.
        """
        clock_now = _checked(clock_now)
        place = self._join(owner_id, clock_now, read_first, device)
        return blocking_events(place, clock_now, last_event_id, self._course)

    def hang_up(self) -> None:
        """End all streams, now and from now on. Call it first when a server is told to stop.

        It never waits, and may be called in a signal handler. Syncs are still announced to other
        processes.
        """
        self._hung_up = True
        self._hub.end()

    @abc.abstractmethod
    def close(self) -> None:
        """Hang up, and send the remaining announcements to other processes.

        It may wait a few seconds for a broker. Calling it again does nothing.
        """

    def _forked(self) -> None:
        """Begin again in a forked child, because all listeners belong to its parent."""
        self._hub.reset()

    @abc.abstractmethod
    def _start(self) -> None:
        """Make sure that this process gets the announcements of others."""

    @abc.abstractmethod
    def _spread(self, topic: str, clock: int) -> None:
        """Tell other processes, without waiting."""

    def _join(
        self,
        owner_id: str,
        clock_now: Callable[[], int],
        read_first: bool,
        device: str | None,
    ) -> Place:
        most = _half_of_open_files() if self._max_listeners is None else self._max_listeners
        most_each = self._max_listeners_per_owner
        of_device = None if device is None else _topic(owner_id, device)
        place = Place(self._hub, _topic(owner_id), most, most_each, of_device)
        if self._hung_up:
            place.listener.end()
        else:
            self._start()
            if read_first:
                place.read(clock_now)
        return place


class InProcessLive(Live):
    """For an app of one process: devices hear about the syncs of this process."""

    def close(self) -> None:
        self.hang_up()

    def _start(self) -> None:
        """There is no other process to hear from."""

    def _spread(self, topic: str, clock: int) -> None:
        """There is no other process to tell."""


_all: weakref.WeakSet[Live] = weakref.WeakSet()


def _tell_of_fork() -> None:
    for live in _all:
        live._forked()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_tell_of_fork)


def _checked(clock_now: Callable[[], int]) -> Callable[[], int]:
    """``clock_now``, with an error if the result cannot be a clock."""
    if not callable(clock_now):
        raise TypeError(
            f"clock_now must be a function that reads the clock, not {clock_now!r:.100}: "
            "a clock that was read before the subscription may be out of date"
        )
    check_plain("clock_now", clock_now)

    def checked() -> int:
        clock: object = clock_now()
        refuse_awaitable("clock_now", clock)
        if not isinstance(clock, int) or isinstance(clock, bool) or clock < 0:
            raise TypeError(f"clock_now must return an int of 0 or more, not {shown(clock)}")
        return clock

    return checked


def _check_number(name: str, number: int) -> None:
    if not isinstance(number, int) or isinstance(number, bool):
        raise TypeError(f"{name} must be an int, not {number!r:.100}")
    if number < 1:
        raise ValueError(f"{name} must be 1 or more, not {number!r}")


def _half_of_open_files() -> int:
    if sys.platform == "win32":  # has no such limit, and no such module
        return sys.maxsize
    import resource

    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if allowed == resource.RLIM_INFINITY else max(1, allowed // 2)


def _topic(*names: str) -> str:
    """The topic of an owner, or of an owner's device."""
    # Owner ids have any length, and people who read the broker must not learn them.
    return hashlib.blake2b("\0".join(names).encode(), digest_size=16).hexdigest()
